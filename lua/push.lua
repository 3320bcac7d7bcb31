#!lua
-- Appends messages, all or none of them: to the list, or where their headers and the options ask for.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7...] features: priority special unique unique_due groups grouped delayed
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] options, empty when no message asks for anything, else 'delay window chosen': both in ms, window 0 for a
--   dedupe key that holds until its item is settled; chosen is 1 when the caller made the ids, each to be taken once
-- ARGV[6...] message, an envelope each, 1 to 1000
-- Returns {appended, position, id, ...}: for each that was not appended its position, from 0, and the id of the item
--   that has its dedupe key
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT SEALED FULL TOOLARGE OOM WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local groups, grouped, delayed = KEYS[11], KEYS[12], KEYS[13]

-- @include integer
-- @include open
-- @include begin
-- @include allowed

integer('messages', #ARGV - 5, 1, 1000)
if again then
  return outcomes or { #ARGV - 5 }
end
if flags % 2 == 1 then
  return redis.error_reply('SEALED the queue takes no more messages')
end
if ARGV[5] ~= '' and not grouped then
  return redis.error_reply('WIDE options need the keys of the features')
end
if bit.band(flags, 64) ~= 0 then
  -- @include room
end

local milliseconds, window, chosen
if ARGV[5] ~= '' then
  local delay_text, window_text
  delay_text, window_text, chosen = string.match(ARGV[5], '^(%S+) (%S+) ([01])$')
  milliseconds = integer('delay', delay_text, 0, 1e13)
  window = integer('window', window_text, 0, 1e13)
  redis.call('LLEN', waiting)
  -- @include enveloped
  for i = 6, #ARGV do
    if not enveloped(ARGV[i]) then
      return redis.error_reply('ARGUMENT a message is no envelope')
    end
  end
end
-- @include resolve

local reply = { #ARGV - 5 }
if milliseconds then
  -- @include text
  -- @include issue
  -- @include wake
  -- @include uses
  -- @include special
  -- @include rank
  -- @include arrive
  -- @include delay
  -- @include place
  local entries = {}
  for i = 6, #ARGV do
    entries[i - 5] = { ARGV[i], now + milliseconds, window, chosen == '1' }
  end
  local taken = place(entries)
  reply = { #entries - #taken / 2, unpack(taken) }
  unusual = #taken > 0 and reply or nil
else
  redis.call('RPUSH', waiting, unpack(ARGV, 6))
end
pushed = pushed + reply[1]
-- @include remember
-- @include save
return reply
