-- Moves up to `limit` delayed messages that are due to the tail of the list.
local function promote(limit)
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', text(now), 'LIMIT', 0, limit)
  local messages, members, bytes = {}, {}, 0
  for i, member in ipairs(due) do
    members[i], messages[i] = member, string.sub(member, 9)
    bytes = bytes + #member
    if bytes > 4194304 then
      break
    end
  end
  if #members > 0 then
    redis.call('RPUSH', waiting, unpack(messages))
    redis.call('ZREM', delayed, unpack(members))
  end
end
