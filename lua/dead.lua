#!lua flags=no-writes
-- A page of the dead letters, the oldest first, nothing changed.
--
-- KEYS[1] dead HASH
-- KEYS[2] died ZSET
-- KEYS[3] meta HASH
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] offset
-- ARGV[3] count, 1 to 1000
-- Returns {now, next offset or -1, id, died, record, ...}: id is 16 bytes, died ms; the record is laid out in
--   README.md, "Keys". A page ends early at 1 MiB
-- Errors SCHEMA CLOCK ARGUMENT WRONGTYPE

local dead, died, meta = KEYS[1], KEYS[2], KEYS[3]

-- @include integer
-- @include open

local offset, count = integer('offset', ARGV[2], 0, 1e15), integer('count', ARGV[3], 1, 1000)
local found = redis.call('ZRANGE', died, offset, offset + count - 1, 'WITHSCORES')
local reply, bytes, read = { now, -1 }, 0, 0
while read < #found / 2 and bytes < 1048576 do
  local record = redis.call('HGET', dead, found[2 * read + 1])
  if record then
    reply[#reply + 1] = found[2 * read + 1]
    reply[#reply + 1] = tonumber(found[2 * read + 2])
    reply[#reply + 1] = record
    bytes = bytes + #record
  end
  read = read + 1
end
if offset + read < redis.call('ZCARD', died) then
  reply[2] = offset + read
end
return reply
