-- Runs where it is included: the state of the queue and the server's time, as locals of the script (a table of them
-- costs twice as much). Every script has it. Layout of the packed field: README.md, "State".
local packed = redis.call('HGET', meta, 'state')
local flags, last, event, asked, called, guard_from, guard_at, rotated = 0, 0, 0, 0, 0, 0, 0, 0
local pushed, completed, raw, tail = 0, 0, 0, ''
if packed then
  if string.byte(packed) ~= 1 or #packed < 63 then
    return redis.error_reply('SCHEMA the queue was written by another version of pyqueue')
  end
  local _
  _, flags, last, event, asked, called, guard_from, guard_at, rotated, pushed, completed, raw =
    struct.unpack('>BI4I8I6I2I6I6I6I6I6I6I6', packed)
  tail = string.sub(packed, 64)
end

local micros
if ARGV[1] == '' then
  -- Read once: it moves within a script on Redis 7.0.
  local time = redis.call('TIME')
  micros = time[1] * 1000000 + time[2]
elseif flags >= 2147483648 then
  micros = tonumber(ARGV[1]) * 1000
else
  return redis.error_reply('CLOCK the time is an argument only on a queue made for tests')
end
local now = (micros - micros % 1000) / 1000

if guard_at > now then
  -- The clock went back to before the guard: it holds from now on, not until that time has come again.
  guard_at, event = now, 0
end
-- Nobody called for a while: the server was down, or the clock jumped. Leases that ran out meanwhile may belong to
-- workers that are alive and could not extend them; see `reclaimable`.
if called > 0 and now - called > 5000 then
  guard_from, guard_at = called, now
end
