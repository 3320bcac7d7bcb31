-- Runs where it is included: writes the state back, the bytes of a newer version behind it untouched.
do
  local state = struct.pack(
    '>BI4I8I6I2I6I6I6I6I6I6I6',
    1,
    flags,
    last,
    event,
    asked,
    now,
    guard_from,
    guard_at,
    rotated,
    pushed,
    completed,
    raw
  ) .. tail
  if packed then
    redis.call('HSET', meta, 'state', state)
  else
    redis.call('HSET', meta, 'state', state, 'schema', '1')
  end
end
