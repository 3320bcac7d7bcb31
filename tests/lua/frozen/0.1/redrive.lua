#!lua flags=allow-oom
-- Puts dead letters back to the tail of the waiting list. Their attempts restart, their deliveries go on; one that ran
-- out of leases is still a suspect. What is malformed stays dead: it would only die again.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] dead HASH
-- KEYS[8] died ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5...] id, 16 bytes, 1 to 1000
-- Returns the positions, from 0, of the ids that stay as they are: no such dead letter, or malformed
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dead, died = KEYS[7], KEYS[8]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include wake
-- @include kind

integer('ids', #ARGV - 4, 1, 1000)
if again then
  return outcomes or {}
end
redis.call('LLEN', waiting)
redis.call('ZCARD', died)

local kept, ids, messages, seen = {}, {}, {}, {}
for i = 5, #ARGV do
  local record = not seen[ARGV[i]] and redis.call('HGET', dead, ARGV[i])
  local message
  if record then
    seen[ARGV[i]] = true
    -- version, reason, worker, error: each with its length before it.
    local at = 3 + string.byte(record, 2)
    at = at + 1 + string.byte(record, at)
    at = at + 2 + struct.unpack('>H', record, at)
    message = string.sub(record, at)
  end
  local what = message and kind(message)
  if what == 'envelope' or what == 'suspect' then
    ids[#ids + 1] = ARGV[i]
    messages[#messages + 1] = string.sub(message, 1, 23) .. '\0\0' .. string.sub(message, 26)
  else
    kept[#kept + 1] = i - 5
  end
end
-- @include resolve
if #ids > 0 then
  redis.call('RPUSH', waiting, unpack(messages))
  redis.call('HDEL', dead, unpack(ids))
  redis.call('ZREM', died, unpack(ids))
  redis.call('HINCRBY', meta, 'redriven', #ids)
end
unusual = #kept > 0 and kept or nil
-- @include remember
-- @include save
return kept
