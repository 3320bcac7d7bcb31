#!lua
-- Appends messages to the waiting list, all or none of them.
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
-- ARGV[5...] message, an envelope each, 1 to 1000
-- Returns how many were appended
-- Errors SCHEMA STALE CLOCK ARGUMENT SEALED OOM WRONGTYPE

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

local slot, number, ack = ARGV[2], integer('number', ARGV[3], 1, 2 ^ 53), integer('ack', ARGV[4], 0, 2 ^ 53)
integer('messages', #ARGV - 4, 1, 1000)
local q = open(meta, ARGV[1])
local known, first, count = recall(calls0, calls1, slot, number)
if number == known then
  return #ARGV - 4
end
if q.flags % 2 == 1 then
  return redis.error_reply('SEALED the queue takes no more messages')
end
redis.call('LLEN', waiting)
redis.call('ZCARD', leases)
redis.call('HLEN', leased)
if known > ack and count > 0 then
  give_back(waiting, leases, leased, meta, first, count)
end

redis.call('RPUSH', waiting, unpack(ARGV, 5))
q.pushed = q.pushed + #ARGV - 4
remember(calls0, calls1, q, slot, number, 0, 0, '')
save(meta, q)
return #ARGV - 4
