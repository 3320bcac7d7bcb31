#!lua flags=no-writes
-- Counts everything, in O(log n).
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] meta HASH
-- KEYS[4] handoff LIST
-- KEYS[5] delayed ZSET
-- KEYS[6] dead HASH
-- KEYS[7] priority ZSET
-- KEYS[8] unique HASH
-- KEYS[9] groups HASH
-- KEYS[10] grouped ZSET
-- ARGV[1] now ms, empty for the server's clock
-- Returns {name, value, ...}: integers, but for what begins with config_ text as it was configured. 'waiting' includes
--   those with a priority, which 'priority' counts
-- Errors SCHEMA CLOCK WRONGTYPE

local waiting, leases, meta, handoff, delayed, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, unique, groups, grouped = KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- @include text
-- @include open
-- @include wake
-- @include markers
-- @include kind

-- When the message was pushed; nil for none, and for a raw one.
local function age(message)
  local what = message and kind(message)
  if what == 'envelope' or what == 'suspect' then
    return math.max(now - struct.unpack('>I6', message, 5), 0)
  end
end

local marked = markers(waiting)
local ranked = redis.call('ZRANGE', priority, 0, 0)[1]
local oldest = math.max(age(redis.call('LINDEX', waiting, marked)) or -1, age(ranked and string.sub(ranked, 9)) or -1)
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
local reply = {
  'now',
  now,
  'waiting',
  redis.call('LLEN', waiting) - marked + redis.call('ZCARD', priority),
  'handoff',
  redis.call('LLEN', handoff) - markers(handoff),
  'priority',
  redis.call('ZCARD', priority),
  'delayed',
  redis.call('ZCARD', delayed),
  'grouped',
  redis.call('ZCARD', grouped),
  'groups',
  redis.call('HLEN', groups),
  'unique',
  redis.call('HLEN', unique),
  'leased',
  redis.call('ZCARD', leases),
  'expired',
  redis.call('ZCOUNT', leases, '-inf', text(now)),
  'dead',
  redis.call('HLEN', dead),
  'oldest',
  oldest,
  'next_due',
  first[2] and math.max(tonumber(first[2]) - now, 0) or -1,
  'sealed',
  flags % 2,
  'paused',
  math.floor(flags / 2) % 2,
  'last_token',
  last,
  'total_pushed',
  pushed,
  'total_raw',
  raw,
  'total_completed',
  completed,
}
local counters = { 'released', 'failed', 'expired', 'unseen', 'dead', 'missing', 'redriven', 'purged', 'imported' }
for i, value in ipairs(redis.call('HMGET', meta, unpack(counters))) do
  reply[#reply + 1] = 'total_' .. counters[i]
  reply[#reply + 1] = tonumber(value or 0)
end
-- @include settings
for i, value in ipairs(redis.call('HMGET', meta, unpack(settings))) do
  if value then
    reply[#reply + 1] = 'config_' .. settings[i]
    reply[#reply + 1] = value
  end
end
return reply
