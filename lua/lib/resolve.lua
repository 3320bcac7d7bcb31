-- Runs where it is included. Leases whose reply was never seen go back to the head, no attempt charged: nobody knows
-- that he holds them. (Helpers that are rarely needed are made where they are: that costs as much as a small call.)
if unseen then
  -- @include text
  -- @include id_of
  -- @include returned
  -- @include restore
  -- @include forget
  redis.call('HLEN', leased)
  redis.call('ZCARD', leases)
  local messages, tokens = {}, {}
  for token = known_first, known_first + known_count - 1 do
    local name = text(token)
    local value = redis.call('HGET', leased, name)
    if value then
      messages[#messages + 1] = returned(value, token, 0, 0)
      tokens[#tokens + 1] = name
    end
  end
  if #tokens > 0 then
    restore(messages)
    forget(tokens)
    redis.call('HINCRBY', meta, 'unseen', #tokens)
  end
end
