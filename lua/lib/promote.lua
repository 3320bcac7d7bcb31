-- Makes up to `limit` delayed messages that are due leasable, or about `most` bytes of them.
local function promote(limit, most)
  local taken, bytes = 0, 0
  while taken < limit and bytes < most do
    -- First one: they can be large.
    local want = taken == 0 and 1 or math.min(limit - taken, math.ceil((most - bytes) / (bytes / taken)))
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
