#!lua flags=no-writes
-- Counts everything, in O(log n).
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] meta HASH
-- KEYS[4] handoff LIST
-- KEYS[5] delayed ZSET
-- KEYS[6] dead HASH
-- ARGV[1] now ms, empty for the server's clock
-- Returns {name, value, ...}: integers
-- Errors SCHEMA CLOCK WRONGTYPE

local waiting, leases, meta, handoff, delayed, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include text
-- @include open
-- @include wake
-- @include markers
-- @include kind

local marked = markers(waiting)
local head = redis.call('LINDEX', waiting, marked)
local what = head and kind(head)
local oldest = -1
if what == 'envelope' or what == 'suspect' then
  oldest = math.max(now - struct.unpack('>I6', head, 5), 0)
end
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
local counted =
  redis.call('HMGET', meta, 'released', 'failed', 'expired', 'unseen', 'dead', 'missing', 'redriven', 'purged')
return {
  'now',
  now,
  'waiting',
  redis.call('LLEN', waiting) - marked,
  'handoff',
  redis.call('LLEN', handoff) - markers(handoff),
  'delayed',
  redis.call('ZCARD', delayed),
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
  'total_released',
  tonumber(counted[1] or 0),
  'total_failed',
  tonumber(counted[2] or 0),
  'total_expired',
  tonumber(counted[3] or 0),
  'total_unseen',
  tonumber(counted[4] or 0),
  'total_dead',
  tonumber(counted[5] or 0),
  'total_missing',
  tonumber(counted[6] or 0),
  'total_redriven',
  tonumber(counted[7] or 0),
  'total_purged',
  tonumber(counted[8] or 0),
}
