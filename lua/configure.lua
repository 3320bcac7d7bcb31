#!lua flags=allow-oom
-- Sets, or with an empty value unsets, what a queue has its own numbers for.
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
-- ARGV[5...] name, value, ...: max_attempts, backoff_base ms, backoff_max ms, ttl ms, max_lease ms, max_leased,
--   max_waiting, max_bytes, rate per second, burst
-- Returns {name, value, ...}: all that is configured now
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local groups, grouped, delayed = KEYS[11], KEYS[12], KEYS[13]

-- @include integer
-- @include open
-- @include begin
-- @include allowed
-- @include text
-- @include uses
-- @include settings

local least = {
  max_attempts = 1,
  backoff_base = 0,
  backoff_max = 0,
  ttl = 1,
  max_lease = 1,
  max_leased = 0,
  max_waiting = 0,
  max_bytes = 0,
  rate = 0,
  burst = 1,
}
integer('arguments', #ARGV, 4, 60)
local clean = {}
for i = 5, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local number = tonumber(value)
  if not least[name] or not value then
    return redis.error_reply('ARGUMENT there is nothing to configure by the name of ' .. name)
  end
  if value ~= '' and name == 'rate' then
    if not (number and number >= 1e-6 and number <= 1e6) then
      return redis.error_reply('ARGUMENT rate is not a number from 0.000001 to 1000000')
    end
    clean[i + 1] = string.format('%.17g', number)
  elseif value ~= '' then
    clean[i + 1] = text(integer(name, value, least[name], name == 'max_attempts' and 65535 or 1e13))
  end
end

if not again then
  -- @include resolve
  local set, unset = {}, {}
  for i = 5, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      unset[#unset + 1] = ARGV[i]
    else
      set[#set + 1] = ARGV[i]
      set[#set + 1] = clean[i + 1]
    end
  end
  if #set > 0 then
    redis.call('HSET', meta, unpack(set))
  end
  if #unset > 0 then
    redis.call('HDEL', meta, unpack(unset))
  end
end

local values, reply = redis.call('HMGET', meta, unpack(settings)), {}
local found = {}
for i, value in ipairs(values) do
  if value then
    found[settings[i]] = value
    reply[#reply + 1] = settings[i]
    reply[#reply + 1] = value
  end
end
if again then
  return reply
end
-- What is not configured any more costs nothing any more.
local function mark(feature, wanted)
  if wanted then
    uses(feature)
  elseif bit.band(flags, feature) ~= 0 then
    flags = flags - feature
  end
end
mark(32, found.rate)
mark(64, found.max_leased or found.max_waiting or found.max_bytes)
mark(256, found.ttl or found.max_lease)
-- @include remember
-- @include save
return reply
