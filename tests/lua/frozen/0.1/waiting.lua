#!lua flags=no-writes
-- A page of what waits, in the order of leasing, nothing changed: handed off, listed, then delayed by due time.
--
-- KEYS[1] waiting LIST
-- KEYS[2] meta HASH
-- KEYS[3] handoff LIST
-- KEYS[4] delayed ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] offset
-- ARGV[3] count, 1 to 1000
-- Returns {now, next offset or -1, state, due, message, ...}: state is 'handoff', 'waiting' or 'delayed'; due is ms
--   from now, 0 unless delayed. A page ends early at 4 MiB, and wake markers are left out of it
-- Errors SCHEMA CLOCK ARGUMENT WRONGTYPE

local waiting, meta, handoff, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- @include integer
-- @include open
-- @include wake

local offset, count = integer('offset', ARGV[2], 0, 1e15), integer('count', ARGV[3], 1, 1000)
local handed, listed = redis.call('LLEN', handoff), redis.call('LLEN', waiting)
local total = handed + listed + redis.call('ZCARD', delayed)
local position, stop = offset, math.min(offset + count, total)
local reply, bytes = { now, -1 }, 0

local function add(state, due, message)
  position = position + 1
  if message ~= wake then
    reply[#reply + 1] = state
    reply[#reply + 1] = due
    reply[#reply + 1] = message
    bytes = bytes + #message
  end
end

local function add_list(state, list, before, length)
  while position < math.min(stop, before + length) and bytes < 4194304 do
    local from = position - before
    -- Few at a time: they can be large.
    for _, message in ipairs(redis.call('LRANGE', list, from, math.min(from + 15, stop - before - 1))) do
      add(state, 0, message)
    end
  end
end

add_list('handoff', handoff, 0, handed)
add_list('waiting', waiting, handed, listed)
while position < stop and bytes < 4194304 do
  local at = position - handed - listed
  local entry = redis.call('ZRANGE', delayed, at, at, 'WITHSCORES')
  add('delayed', math.max(tonumber(entry[2]) - now, 0), string.sub(entry[1], 9))
end
if position < total then
  reply[2] = position
end
return reply
