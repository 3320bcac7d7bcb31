-- The queue's state and the server's time, as a table. Every script begins with it.
-- Layout of the packed field: lua/README.md, "State".
-- Errors: SCHEMA (before anything is written), CLOCK.
local function open(meta, given_now)
  local packed = redis.call('HGET', meta, 'state')
  local q
  if packed then
    if string.byte(packed) ~= 1 or #packed < 63 then
      error({ err = 'SCHEMA the queue was written by another version of pyqueue' })
    end
    local _, flags, last, event, asked, called, guard_from, guard_at, rotated, pushed, completed, raw, tail =
      struct.unpack('>BI4I8I6I2I6I6I6I6I6I6I6', packed)
    q = {
      flags = flags,
      last = last,
      event = event,
      asked = asked,
      called = called,
      guard_from = guard_from,
      guard_at = guard_at,
      rotated = rotated,
      pushed = pushed,
      completed = completed,
      raw = raw,
      tail = string.sub(packed, tail),
    }
  else
    q = {
      flags = 0,
      last = 0,
      event = 0,
      asked = 0,
      called = 0,
      guard_from = 0,
      guard_at = 0,
      rotated = 0,
      pushed = 0,
      completed = 0,
      raw = 0,
      tail = '',
      new = true,
    }
  end
  if given_now == '' then
    -- Read once: it moves within a script on Redis 7.0.
    local time = redis.call('TIME')
    q.micros = time[1] * 1000000 + time[2]
  elseif q.flags >= 2147483648 then
    q.micros = tonumber(given_now) * 1000
  else
    error({ err = 'CLOCK the time is an argument only on a queue made for tests' })
  end
  q.now = math.floor(q.micros / 1000)
  if q.guard_at > q.now then
    -- The clock went back to before the guard: it holds from now on, not until that time has come again.
    q.guard_at, q.event = q.now, 0
  end
  -- Nobody called for a while: the server was down, or the clock jumped. Leases that ran out meanwhile may
  -- belong to workers that are alive and could not extend them; see `reclaimable`.
  if q.called > 0 and q.now - q.called > 5000 then
    q.guard_from, q.guard_at = q.called, q.now
  end
  return q
end
