#!lua flags=allow-oom
-- Seals a queue, so that it takes no more messages, or unseals it.
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
-- ARGV[5] sealed, 1 or 0
-- Returns 1 when that changed it, else 0
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include text
-- @include integer
-- @include open
-- @include save
-- @include allowed
-- @include begin
-- @include id_of
-- @include returned
-- @include held
-- @include restore
-- @include forget
-- @include resolve
-- @include finish

local sealed = integer('sealed', ARGV[5], 0, 1)
local q = begin()
if q.again then
  return q.outcomes or 0
end
resolve(q)

local was = q.flags % 2
q.flags = q.flags + sealed - was
finish(q, 0, 0, sealed ~= was and 1 or nil)
return sealed ~= was and 1 or 0
