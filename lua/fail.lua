#!lua flags=allow-oom
-- Fails leases: one attempt is charged; their items wait again after a backoff, or are dead when all are used up.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] delayed ZSET
-- KEYS[8] dead HASH
-- KEYS[9] died ZSET
-- KEYS[10...] features: priority special unique unique_due groups grouped
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] retry_in ms, empty for the queue's backoff
-- ARGV[6] error, what went wrong, at most 2048 bytes
-- ARGV[7...] token, 1 to 1000
-- Returns {lost, dead}: the positions, from 0, of the tokens that no longer held a lease; of those whose item is dead
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local delayed, dead, died = KEYS[7], KEYS[8], KEYS[9]
local priority, bound, unique, unique_due = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local groups, grouped = KEYS[14], KEYS[15]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
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
integer('tokens', #ARGV - 6, 1, 1000)
if again then
  return outcomes or { {}, {} }
end
redis.call('LLEN', waiting)
redis.call('HLEN', leased)
redis.call('ZCARD', leases)
redis.call('ZCARD', delayed)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
local config = redis.call('HMGET', meta, 'max_attempts', 'backoff_base', 'backoff_max')
-- @include resolve

local lost, buried, letters, ended, tokens, ready, seen = {}, {}, {}, {}, {}, {}, {}
for i = 7, #ARGV do
  -- A token that is given twice must not give its item back twice.
  local value = not seen[ARGV[i]] and redis.call('HGET', leased, ARGV[i])
  if value then
    seen[ARGV[i]] = true
    local token = tonumber(ARGV[i])
    local message, attempts, worker = returned(value, token, 1, 0)
    tokens[#tokens + 1] = ARGV[i]
    local asks = special(message)
    if attempts >= limits(asks, config[1]) then
      letters[#letters + 1] = { token, message, worker }
      buried[#buried + 1] = i - 7
      ended[#ended + 1] = ARGV[i]
    else
      local milliseconds = retry_in or backoff(attempts, token, asks, config[2], config[3])
      if milliseconds > 0 then
        delay(message, milliseconds)
      else
        ready[#ready + 1] = message
      end
    end
  else
    lost[#lost + 1] = i - 7
  end
end
arrive(ready)
entomb(letters, 'failed', problem)
unbind(ended)
forget(tokens)
if #tokens > 0 then
  redis.call('HINCRBY', meta, 'failed', #tokens)
end
local settled = { lost, buried }
unusual = #lost + #buried > 0 and settled or nil
-- @include remember
-- @include save
return settled
