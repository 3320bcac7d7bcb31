#!lua flags=allow-oom
-- Moves the deadlines of leases to now + ttl.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] ttl ms
-- ARGV[6...] token, 1 to 1000
-- Returns {now, deadline...}: ms for each token, 0 for one that no longer holds a lease
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text

local ttl = integer('ttl', ARGV[5], 1, 1e13)
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

local deadline = text(now + ttl)
for i = 6, #ARGV do
  if redis.call('ZSCORE', leases, ARGV[i]) then
    redis.call('ZADD', leases, deadline, ARGV[i])
  end
end
if now + ttl < event then
  event, asked = now + ttl, 0
end
-- @include remember
-- @include save
return deadlines()
