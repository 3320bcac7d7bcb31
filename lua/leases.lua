#!lua flags=no-writes
-- A page of what is in flight, by deadline, nothing changed.
--
-- KEYS[1] leases ZSET
-- KEYS[2] leased HASH
-- KEYS[3] meta HASH
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] offset
-- ARGV[3] count, 1 to 1000
-- Returns {now, next offset or -1, token, deadline, worker, message, ...}: deadline in ms. A page ends early at 1 MiB
-- Errors SCHEMA CLOCK ARGUMENT WRONGTYPE

local leases, leased, meta = KEYS[1], KEYS[2], KEYS[3]

-- @include integer
-- @include open
-- @include held

local offset, count = integer('offset', ARGV[2], 0, 1e15), integer('count', ARGV[3], 1, 1000)
local found = redis.call('ZRANGE', leases, offset, offset + count - 1, 'WITHSCORES')
local reply, bytes, read = { now, -1 }, 0, 0
while read < #found / 2 and bytes < 1048576 do
  local name, deadline = found[2 * read + 1], found[2 * read + 2]
  local value = redis.call('HGET', leased, name)
  if value then
    local message, worker = held(value)
    reply[#reply + 1] = name
    reply[#reply + 1] = tonumber(deadline)
    reply[#reply + 1] = worker
    reply[#reply + 1] = message
    bytes = bytes + #message
  end
  read = read + 1
end
if offset + read < redis.call('ZCARD', leases) then
  reply[2] = offset + read
end
return reply
