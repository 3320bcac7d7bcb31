-- Writes the state back, with the bytes of a newer version behind it untouched.
local function save(meta, q)
  local packed = struct.pack(
    '>BI4I8I6I2I6I6I6I6I6I6I6',
    1,
    q.flags,
    q.last,
    q.event,
    q.asked,
    q.now,
    q.guard_from,
    q.guard_at,
    q.rotated,
    q.pushed,
    q.completed,
    q.raw
  ) .. q.tail
  if q.new then
    redis.call('HSET', meta, 'state', packed, 'schema', '1')
  else
    redis.call('HSET', meta, 'state', packed)
  end
end
