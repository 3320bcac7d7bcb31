#!lua flags=allow-oom
-- Puts dead letters back to the tail of the queue, or of their group. Their attempts restart, their deliveries go on;
-- one that ran out of leases is still a suspect. What is malformed stays dead: it would only die again. So does one
-- whose dedupe key is taken by another item now.
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
-- ARGV[5...] id, 16 bytes, 1 to 1000
-- Returns the positions, from 0, of the ids that stay as they are: no such dead letter, malformed, or its key is taken
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
-- @include issue
-- @include wake
-- @include kind
-- @include letter
-- @include uses
-- @include special
-- @include rank
-- @include arrive
-- @include delay
-- @include place

integer('ids', #ARGV - 4, 1, 1000)
if again then
  return outcomes or {}
end
redis.call('LLEN', waiting)
redis.call('ZCARD', died)

local kept, ids, entries, positions, seen = {}, {}, {}, {}, {}
for i = 5, #ARGV do
  local record = not seen[ARGV[i]] and redis.call('HGET', dead, ARGV[i])
  local message
  if record then
    seen[ARGV[i]] = true
    message = letter(record)
  end
  local what = message and kind(message)
  if what == 'envelope' or what == 'suspect' then
    if not grouped and bit.band(string.byte(message, 21), 2) ~= 0 then
      return redis.error_reply('WIDE a dead letter asks for features: call with their keys too')
    end
    positions[#positions + 1], ids[#ids + 1] = i - 5, ARGV[i]
    local anew = string.sub(message, 1, 23) .. '\0\0' .. string.sub(message, 26)
    -- Its own key may still hold for a time.
    entries[#entries + 1] = { anew, now, 0, false, string.sub(message, 5, 20), true }
  else
    kept[#kept + 1] = i - 5
  end
end
-- @include resolve
local taken = place(entries)
for i = #taken - 1, 1, -2 do
  kept[#kept + 1] = positions[taken[i] + 1]
  table.remove(ids, taken[i] + 1)
end
table.sort(kept)
if #ids > 0 then
  redis.call('HDEL', dead, unpack(ids))
  redis.call('ZREM', died, unpack(ids))
  redis.call('HINCRBY', meta, 'redriven', #ids)
end
unusual = #kept > 0 and kept or nil
-- @include remember
-- @include save
return kept
