#!lua flags=no-writes
-- A page of what waits, in the order of leasing, nothing changed: handed off, positive priorities, listed, negative
-- priorities, then delayed by due time, then what is behind others of its group.
--
-- KEYS[1] waiting LIST
-- KEYS[2] meta HASH
-- KEYS[3] handoff LIST
-- KEYS[4] delayed ZSET
-- KEYS[5] priority ZSET
-- KEYS[6] grouped ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] offset
-- ARGV[3] count, 1 to 1000
-- Returns {now, next offset or -1, state, due, message, ...}: state is 'handoff', 'priority', 'waiting', 'delayed' or
--   'grouped'; due is ms from now, 0 unless delayed. A page ends early at 1 MiB, and wake markers are left out of it
-- Errors SCHEMA CLOCK ARGUMENT WRONGTYPE

local waiting, meta, handoff, delayed, priority, grouped = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- @include integer
-- @include open
-- @include wake

local offset, count = integer('offset', ARGV[2], 0, 1e15), integer('count', ARGV[3], 1, 1000)
local high = redis.call('ZCOUNT', priority, '-inf', '(0')
local parts = {
  { 'handoff', handoff, redis.call('LLEN', handoff), 0 },
  { 'priority', priority, high, 0 },
  { 'waiting', waiting, redis.call('LLEN', waiting), 0 },
  { 'priority', priority, redis.call('ZCARD', priority) - high, high },
  { 'delayed', delayed, redis.call('ZCARD', delayed), 0 },
  { 'grouped', grouped, redis.call('ZCARD', grouped), 0 },
}
local position, before, total = offset, 0, 0
local reply, bytes, seen = { now, -1 }, 0, 0

for _, part in ipairs(parts) do
  local state, key, length, skipped = unpack(part)
  total = total + length
  local stop = math.min(offset + count, total)
  while position < stop and bytes < 1048576 do
    local from = position - before + skipped
    -- First one: they can be large.
    local want = seen == 0 and 1 or math.min(100, math.ceil((1048576 - bytes) / (bytes / seen + 1)))
    local to = math.min(from + want, stop - before + skipped) - 1
    local list = state == 'handoff' or state == 'waiting'
    local found = list and redis.call('LRANGE', key, from, to) or redis.call('ZRANGE', key, from, to, 'WITHSCORES')
    for i = 1, #found, list and 1 or 2 do
      local message, due = found[i], 0
      position, seen = position + 1, seen + 1
      if state == 'delayed' then
        message, due = string.sub(message, 9), math.max(tonumber(found[i + 1]) - now, 0)
      elseif state == 'priority' then
        message = string.sub(message, 9)
      elseif state == 'grouped' then
        local at = string.find(message, '%z')
        due = math.max(struct.unpack('>I6', message, at + 9) - now, 0)
        message = string.sub(message, at + 15)
      end
      if message ~= wake then
        reply[#reply + 1] = state
        reply[#reply + 1] = due
        reply[#reply + 1] = message
        bytes = bytes + #message
      end
    end
  end
  before = total
end
if position < total then
  reply[2] = position
end
return reply
