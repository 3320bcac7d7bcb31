#!lua flags=allow-oom
-- Takes back leases that have run out. `lease` does it as well: this is for a queue that nobody works on.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] dead HASH
-- KEYS[8] died ZSET
-- KEYS[9...] features: priority special unique unique_due groups grouped delayed
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] limit, at most 1000
-- ARGV[6] hold ms, how long after an outage the workers have to extend first
-- Returns {reclaimed, dead, left, wait}: how many wait again; how many are dead; how many have run out and are left;
--   ms until the next lease can be reclaimed, 0 when nothing is leased
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dead, died = KEYS[7], KEYS[8]
local priority, bound, unique, unique_due = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local groups, grouped, delayed = KEYS[13], KEYS[14], KEYS[15]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text
-- @include id_of
-- @include returned
-- @include restore
-- @include forget
-- @include entomb
-- @include reclaimable
-- @include special
-- @include limits
-- @include unbind
-- @include reclaim_expired

local limit, hold = integer('limit', ARGV[5], 1, 1000), integer('hold', ARGV[6], 0, 1e13)
if again then
  return outcomes
end
redis.call('LLEN', waiting)
redis.call('HLEN', leased)
redis.call('ZCARD', leases)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
-- @include resolve

local back, buried = reclaim_expired(limit, hold, 1048576)
local wait = 0
local next = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
if next[2] then
  wait = math.max(reclaimable(tonumber(next[2]), hold) - now, 0)
end
local left = redis.call('ZCOUNT', leases, '-inf', text(now))
local reply = { back, buried, left, wait }
unusual = reply
-- @include remember
-- @include save
return reply
