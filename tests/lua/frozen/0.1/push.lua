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
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT SEALED OOM WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include integer
-- @include open
-- @include begin
-- @include allowed

integer('messages', #ARGV - 4, 1, 1000)
if again then
  return #ARGV - 4
end
if flags % 2 == 1 then
  return redis.error_reply('SEALED the queue takes no more messages')
end
-- @include resolve

redis.call('RPUSH', waiting, unpack(ARGV, 5))
pushed = pushed + #ARGV - 4
-- @include remember
-- @include save
return #ARGV - 4
