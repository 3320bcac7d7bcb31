#!lua flags=allow-oom
-- Completes leases: their items are done and gone.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5...] token, 1 to 1000
-- Returns the positions, from 0, of the tokens that no longer held a lease
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include integer
-- @include open
-- @include begin
-- @include allowed

integer('tokens', #ARGV - 4, 1, 1000)
if again then
  return outcomes or {}
end
redis.call('HLEN', leased)
-- @include resolve

local lost, from = {}, 5
-- @include settle
unusual = #lost > 0 and lost or nil
-- @include remember
-- @include save
return lost
