-- Leases whose reply was never seen go back to the head, no attempt charged: nobody knows that he holds them.
local function give_back(waiting, leases, leased, meta, first, count)
  local messages, tokens = {}, {}
  for token = first, first + count - 1 do
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
