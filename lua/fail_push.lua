#!lua
-- Fails a lease; when that was the item's last attempt, pushes what follows from its death, to this queue or to others
-- of the same tag, in one step with it: after a crash at any instant a follow-up exists exactly when its item is dead.
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
-- KEYS[14] dead HASH
-- KEYS[15] died ZSET
-- KEYS[16...] others: waiting meta delayed priority unique unique_due groups grouped of each other queue, at most 8
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] retry_in ms, empty for the item's or the queue's backoff
-- ARGV[6] error, what went wrong, at most 2048 bytes
-- ARGV[7] token
-- ARGV[8...] queue, delay, window, message, ...: the queue's number, 0 for this one; delay and window in ms; 1 to 100
--   envelopes
-- Returns 1 when the item will be tried again, 2 when it is dead, 0 when the token no longer held a lease
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT OOM WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local groups, grouped, delayed = KEYS[11], KEYS[12], KEYS[13]
local dead, died = KEYS[14], KEYS[15]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include enveloped
-- @include text
-- @include id_of
-- @include returned
-- @include forget
-- @include issue
-- @include wake
-- @include delay
-- @include entomb
-- @include special
-- @include limits
-- @include backoff
-- @include uses
-- @include rank
-- @include arrive
-- @include unbind

local retry_in = ARGV[5] ~= '' and integer('retry_in', ARGV[5], 0, 1e13)
local problem = string.sub(ARGV[6], 1, 2048)
local from, own_keys = 8, 15
local others = integer('other queues', (#KEYS - own_keys) / 8, 0, 8)
integer('follow-ups', (#ARGV - from + 1) / 4, 1, 100)
if again then
  return outcomes or 1
end
redis.call('ZCARD', leases)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
local config = redis.call('HMGET', meta, 'max_attempts', 'backoff_base', 'backoff_max')
local token, outcome = tonumber(ARGV[7]), 0
local value = redis.call('HGET', leased, ARGV[7])
if unseen and token and token >= known_first and token < known_first + known_count then
  value = false -- goes back
end
local message, worker, attempts, asks
if value then
  message, attempts, worker = returned(value, token, 1, 0)
  asks = special(message)
  outcome = attempts >= limits(asks, config[1]) and 2 or 1
end
if outcome == 2 then
  local ended = string.sub(message, 5, 20)
  -- @include follow
end
-- @include resolve
if outcome == 2 then
  entomb({ { token, message, worker } }, 'failed', problem)
  unbind({ ARGV[7] })
elseif outcome == 1 then
  local milliseconds = retry_in or backoff(attempts, token, asks, config[2], config[3])
  if milliseconds > 0 then
    delay(message, milliseconds)
  else
    arrive({ message })
  end
end
if outcome > 0 then
  forget({ ARGV[7] })
  redis.call('HINCRBY', meta, 'failed', 1)
end
unusual = outcome ~= 1 and outcome or nil
-- @include remember
-- @include save
return outcome
