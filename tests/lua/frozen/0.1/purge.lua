#!lua flags=allow-oom
-- Drops all that waits (handed off, listed and delayed), or all dead letters. What is leased stays.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] handoff LIST
-- KEYS[8] delayed ZSET
-- KEYS[9] dead HASH
-- KEYS[10] died ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] what, 'waiting' or 'dead'
-- Returns how many were dropped
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local handoff, delayed, dead, died = KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- @include open
-- @include begin
-- @include allowed
-- @include wake
-- @include markers
-- @include issue

if ARGV[5] ~= 'waiting' and ARGV[5] ~= 'dead' then
  error({ err = 'ARGUMENT purge drops what is waiting or dead' })
end
if again then
  return outcomes or 0
end
redis.call('LLEN', waiting)
redis.call('LLEN', handoff)
redis.call('ZCARD', delayed)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
-- @include resolve

local dropped
if ARGV[5] == 'dead' then
  dropped = redis.call('HLEN', dead)
  redis.call('UNLINK', dead, died)
else
  dropped = redis.call('LLEN', waiting) + redis.call('LLEN', handoff) + redis.call('ZCARD', delayed)
  dropped = dropped - markers(waiting) - markers(handoff)
  redis.call('UNLINK', waiting, handoff, delayed)
end
if dropped > 0 then
  redis.call('HINCRBY', meta, 'purged', dropped)
  issue(1) -- of raw messages that nobody has leased there was no trace, and `lease` would call the queue fresh
end
unusual = dropped
-- @include remember
-- @include save
return dropped
