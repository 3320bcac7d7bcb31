#!lua flags=allow-oom
-- Pauses a queue, so that it leases nothing, or resumes it.
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
-- ARGV[5] paused, 1 or 0
-- Returns 1 when that changed it, else 0
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include integer
-- @include open
-- @include begin
-- @include allowed

local paused = integer('paused', ARGV[5], 0, 1)
if again then
  return outcomes or 0
end
-- @include resolve

local was = math.floor(flags / 2) % 2
flags = flags + (paused - was) * 2
unusual = paused ~= was and 1 or nil
-- @include remember
-- @include save
return paused ~= was and 1 or 0
