#!lua flags=allow-oom
-- Moves the deadlines of leases to now + ttl, but not beyond `max_lease` after they were taken.
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
-- ARGV[5] ttl ms, empty for the queue's own (60 s unless configured)
-- ARGV[6...] token, 1 to 1000
-- Returns {now, deadline...}: ms for each token, 0 for one that no longer holds a lease
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local groups, grouped, delayed = KEYS[11], KEYS[12], KEYS[13]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text

local ttl, longest = ARGV[5], 1e13
if ttl == '' or bit.band(flags, 256) ~= 0 then
  local settings = redis.call('HMGET', meta, 'ttl', 'max_lease')
  ttl, longest = ttl ~= '' and ttl or settings[1] or 60000, tonumber(settings[2] or 1e13)
end
ttl = integer('ttl', ttl, 1, 1e13)
integer('tokens', #ARGV - 5, 1, 1000)

-- Also the answer to a copy of a call that was carried out.
local function deadlines()
  local reply = { now }
  for i = 6, #ARGV do
    reply[#reply + 1] = tonumber(redis.call('ZSCORE', leases, ARGV[i]) or 0)
  end
  return reply
end

if again then
  return deadlines()
end
-- @include resolve

local soonest = now + ttl
for i = 6, #ARGV do
  if redis.call('ZSCORE', leases, ARGV[i]) then
    -- A token is the time it was issued at, in µs. A hung worker whose heartbeat lives loses its item in the end.
    local deadline = math.min(now + ttl, math.floor(tonumber(ARGV[i]) / 1000) + longest)
    soonest = math.min(soonest, deadline)
    redis.call('ZADD', leases, text(deadline), ARGV[i])
  end
end
if soonest < event then
  event, asked = soonest, 0
end
-- @include remember
-- @include save
return deadlines()
