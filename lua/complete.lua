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
-- Errors SCHEMA STALE CLOCK ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include text
-- @include integer
-- @include open
-- @include save
-- @include recall
-- @include remember
-- @include id_of
-- @include returned
-- @include held
-- @include restore
-- @include forget
-- @include give_back
-- @include settle

local slot, number, ack = ARGV[2], integer('number', ARGV[3], 1, 2 ^ 53), integer('ack', ARGV[4], 0, 2 ^ 53)
integer('tokens', #ARGV - 4, 1, 1000)
local q = open(meta, ARGV[1])
local known, first, count, outcomes = recall(calls0, calls1, slot, number)
if number == known then
  return outcomes == '' and {} or cmsgpack.unpack(outcomes)
end
redis.call('LLEN', waiting)
redis.call('ZCARD', leases)
redis.call('HLEN', leased)
if known > ack and count > 0 then
  give_back(waiting, leases, leased, meta, first, count)
end

local lost = settle(leases, leased, q, 5, #ARGV)
remember(calls0, calls1, q, slot, number, 0, 0, #lost > 0 and cmsgpack.pack(lost) or '')
save(meta, q)
return lost
