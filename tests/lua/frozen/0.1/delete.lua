#!lua flags=allow-oom
-- Deletes every key of a queue, when it is drained or when forced to.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] handoff LIST
-- KEYS[6] delayed ZSET
-- KEYS[7] dead HASH
-- KEYS[8...] every other key of the queue
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] force, 1 to delete whatever the queue holds
-- Returns {deleted, live, dead}: 1 or 0; how many items and dead letters the queue held
-- Errors SCHEMA CLOCK WRONGTYPE

local waiting, leases, leased, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local handoff, delayed, dead = KEYS[5], KEYS[6], KEYS[7]

-- @include open
-- @include wake
-- @include markers

local live = redis.call('LLEN', waiting) + redis.call('LLEN', handoff) + redis.call('ZCARD', delayed)
live = live + math.max(redis.call('HLEN', leased), redis.call('ZCARD', leases))
live = live - markers(waiting) - markers(handoff)
local buried = redis.call('HLEN', dead)
if ARGV[2] ~= '1' and live + buried > 0 then
  return { 0, live, buried }
end
redis.call('UNLINK', unpack(KEYS))
return { 1, live, buried }
