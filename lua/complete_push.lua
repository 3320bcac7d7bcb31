#!lua
-- Completes a lease and pushes what follows from it, to this queue or to others of the same tag, in one step: after a
-- crash at any instant a follow-up exists exactly when its item is gone. A lost lease pushes nothing.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] priority ZSET
-- KEYS[8] special HASH
-- KEYS[9] unique HASH
-- KEYS[10] unique_due ZSET
-- KEYS[11] groups HASH
-- KEYS[12] grouped ZSET
-- KEYS[13] delayed ZSET
-- KEYS[14...] others: waiting meta delayed priority unique unique_due groups grouped of each other queue, at most 8
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] token
-- ARGV[6...] queue, delay, window, message, ...: the queue's number, 0 for this one; delay and window in ms; 1 to 100
--   envelopes
-- Returns 1, or 0 when the token no longer held a lease
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT OOM WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local groups, grouped, delayed = KEYS[11], KEYS[12], KEYS[13]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include enveloped

local from, own_keys = 6, 13
local others = integer('other queues', (#KEYS - own_keys) / 8, 0, 8)
integer('follow-ups', (#ARGV - from + 1) / 4, 1, 100)
if again then
  return outcomes or 1
end
redis.call('ZCARD', leases)
local held_it = redis.call('HEXISTS', leased, ARGV[5]) == 1
local own = tonumber(ARGV[5])
if unseen and own and own >= known_first and own < known_first + known_count then
  held_it = false -- goes back
end
if held_it then
  local bond = redis.call('HGET', bound, ARGV[5])
  local ended = bond and string.sub(bond, 1, 16)
  -- @include follow
end
-- @include resolve
if held_it then
  -- @include forget
  -- @include unbind
  unbind({ ARGV[5] })
  forget({ ARGV[5] })
  completed = completed + 1
end
unusual = not held_it and 0 or nil
-- @include remember
-- @include save
return held_it and 1 or 0
