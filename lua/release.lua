#!lua flags=allow-oom
-- Gives leases back: their items wait again, at the head or after a delay, and no attempt is charged.
-- Without a token it is the last call of a slot: what the slot leased in a call that was never answered goes back.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] delayed ZSET
-- KEYS[8...] features: priority special unique unique_due groups grouped
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] delay ms
-- ARGV[6...] token, 0 to 1000
-- Returns the positions, from 0, of the tokens that no longer held a lease
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local delayed = KEYS[7]
local priority, bound, unique, unique_due = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local groups, grouped = KEYS[12], KEYS[13]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text
-- @include id_of
-- @include returned
-- @include restore
-- @include forget
-- @include issue
-- @include wake
-- @include delay

local milliseconds = integer('delay', ARGV[5], 0, 1e13)
integer('tokens', #ARGV - 5, 0, 1000)
if again then
  return outcomes or {}
end
if #ARGV == 5 and not packed then
  return {} -- the queue was deleted: a slot that closes must not make its keys anew
end
redis.call('LLEN', waiting)
redis.call('HLEN', leased)
redis.call('ZCARD', leases)
redis.call('ZCARD', delayed)
-- @include resolve

local lost, messages, tokens, seen = {}, {}, {}, {}
for i = 6, #ARGV do
  -- A token that is given twice must not give its item back twice.
  local value = not seen[ARGV[i]] and redis.call('HGET', leased, ARGV[i])
  if value then
    seen[ARGV[i]] = true
    tokens[#tokens + 1] = ARGV[i]
    messages[#messages + 1] = returned(value, tonumber(ARGV[i]), 0, 0)
  else
    lost[#lost + 1] = i - 6
  end
end
if milliseconds > 0 then
  for _, message in ipairs(messages) do
    delay(message, milliseconds)
  end
else
  restore(messages)
end
forget(tokens)
if #tokens > 0 then
  redis.call('HINCRBY', meta, 'released', #tokens)
end
unusual = #lost > 0 and lost or nil
-- @include remember
-- @include save
return lost
