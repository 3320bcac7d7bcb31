#!lua flags=allow-oom
-- Buries leases: their items become dead letters at once.
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
-- ARGV[5] reason, at most 255 bytes
-- ARGV[6] error, what went wrong, at most 2048 bytes
-- ARGV[7...] token, 1 to 1000
-- Returns the positions, from 0, of the tokens that no longer held a lease
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
-- @include id_of
-- @include returned
-- @include forget
-- @include entomb
-- @include unbind

local reason, problem = string.sub(ARGV[5], 1, 255), string.sub(ARGV[6], 1, 2048)
integer('tokens', #ARGV - 6, 1, 1000)
if again then
  return outcomes or {}
end
redis.call('LLEN', waiting)
redis.call('HLEN', leased)
redis.call('ZCARD', leases)
redis.call('HLEN', dead)
redis.call('ZCARD', died)
-- @include resolve

local lost, tokens, letters, seen = {}, {}, {}, {}
for i = 7, #ARGV do
  local value = not seen[ARGV[i]] and redis.call('HGET', leased, ARGV[i])
  if value then
    seen[ARGV[i]] = true
    local token = tonumber(ARGV[i])
    tokens[#tokens + 1] = ARGV[i]
    local message, _, worker = returned(value, token, 1, 0)
    letters[#letters + 1] = { token, message, worker }
  else
    lost[#lost + 1] = i - 7
  end
end
entomb(letters, reason, problem)
unbind(tokens)
forget(tokens)
unusual = #lost > 0 and lost or nil
-- @include remember
-- @include save
return lost
