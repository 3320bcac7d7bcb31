#!lua flags=allow-oom
-- Drops all that waits (handed off, listed, ranked, delayed, in groups), or all dead letters. What is leased stays.
-- On a queue with dedupe keys or groups what waits is dropped by 1,000 a call, since their keys are freed.
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
-- KEYS[11...] features: priority special unique unique_due groups grouped
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] what, 'waiting' or 'dead'
-- Returns {dropped, more}: how many were dropped; 1 when there may be more to drop by another call
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local handoff, delayed, dead, died = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local priority, bound, unique, unique_due = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local groups, grouped = KEYS[15], KEYS[16]

-- @include open
-- @include begin
-- @include allowed
-- @include wake
-- @include markers
-- @include issue
-- @include text

if ARGV[5] ~= 'waiting' and ARGV[5] ~= 'dead' then
  error({ err = 'ARGUMENT purge drops what is waiting or dead' })
end
if again then
  return outcomes or { 0, 0 }
end
redis.call('LLEN', waiting)
redis.call('LLEN', handoff)
redis.call('ZCARD', delayed)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
-- @include resolve

local dropped
local more = 0
if ARGV[5] == 'dead' then
  dropped = redis.call('HLEN', dead)
  redis.call('UNLINK', dead, died)
elseif bit.band(flags, 16) ~= 0 then
  -- @include special
  -- @include uses
  -- @include rank
  -- @include arrive
  -- @include delay
  -- @include free
  -- @include drop
  dropped, more = drop(200)
else
  dropped = redis.call('LLEN', waiting) + redis.call('LLEN', handoff) + redis.call('ZCARD', delayed)
  dropped = dropped - markers(waiting) - markers(handoff)
  redis.call('UNLINK', waiting, handoff, delayed)
  if grouped then
    dropped = dropped + redis.call('ZCARD', priority)
    redis.call('UNLINK', priority)
  end
end
if dropped > 0 then
  redis.call('HINCRBY', meta, 'purged', dropped)
  issue(1) -- of raw messages that nobody has leased there was no trace, and `lease` would call the queue fresh
end
unusual = { dropped, more }
-- @include remember
-- @include save
return unusual
