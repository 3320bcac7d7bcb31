#!lua
-- Puts dead letters that were exported back among the dead letters of this queue.
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
-- ARGV[5...] id, died ms, record, ...: id is 16 bytes, the record as `dead` gives it; 1 to 1000 of them
-- Returns the positions, from 0, of those that are there already
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT OOM WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dead, died = KEYS[7], KEYS[8]
local priority, bound, unique, unique_due = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local groups, grouped, delayed = KEYS[13], KEYS[14], KEYS[15]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text
-- @include letter

integer('arguments', (#ARGV - 4) / 3, 1, 1000)
for i = 5, #ARGV, 3 do
  integer('time of death', ARGV[i + 1], 0, 1e15)
  if #ARGV[i] ~= 16 or not letter(ARGV[i + 2]) then
    return redis.error_reply('ARGUMENT what is to be imported is no dead letter')
  end
end
if again then
  return outcomes or {}
end
redis.call('HLEN', dead)
redis.call('ZCARD', died)
-- @include resolve

local kept, imported = {}, 0
for i = 5, #ARGV, 3 do
  if redis.call('HEXISTS', dead, ARGV[i]) == 1 then
    kept[#kept + 1] = (i - 5) / 3
  else
    redis.call('HSET', dead, ARGV[i], ARGV[i + 2])
    redis.call('ZADD', died, text(tonumber(ARGV[i + 1])), ARGV[i])
    imported = imported + 1
  end
end
if imported > 0 then
  redis.call('HINCRBY', meta, 'imported', imported)
end
unusual = #kept > 0 and kept or nil
-- @include remember
-- @include save
return kept
