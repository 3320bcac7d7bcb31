-- Makes up to `limit` delayed messages that are due leasable, or about 1 MiB of them.
local function promote(limit)
  local taken, bytes = 0, 0
  while taken < limit and bytes < 1048576 do
    -- Few at a time: they can be large.
    local want = math.min(limit - taken, 2)
    if taken > 0 then
      want = math.min(limit - taken, math.ceil((1048576 - bytes) / (bytes / taken)))
    end
    local members, messages = redis.call('ZRANGEBYSCORE', delayed, '-inf', text(now), 'LIMIT', 0, want), {}
    for i, member in ipairs(members) do
      messages[i] = string.sub(member, 9)
      bytes = bytes + #member
    end
    if #members > 0 then
      arrive(messages)
      redis.call('ZREM', delayed, unpack(members))
    end
    taken = #members == want and taken + want or limit
  end
end
