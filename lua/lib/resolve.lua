-- Leases whose reply was never seen go back to the head, no attempt charged: nobody knows that he holds them.
local function resolve(q)
  if not q.unseen then
    return
  end
  redis.call('HLEN', leased)
  redis.call('ZCARD', leases)
  local messages, tokens = {}, {}
  for token = q.first, q.first + q.count - 1 do
    local name = text(token)
    local value = redis.call('HGET', leased, name)
    if value then
      messages[#messages + 1] = returned(held(value), token, 0, 0)
      tokens[#tokens + 1] = name
    end
  end
  if #tokens > 0 then
    restore(waiting, messages)
    forget(leases, leased, tokens)
    redis.call('HINCRBY', meta, 'unseen', #tokens)
  end
end
