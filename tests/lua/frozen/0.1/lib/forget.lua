-- Removes leases. Called after the messages are safe elsewhere.
local function forget(tokens)
  if #tokens > 0 then
    redis.call('HDEL', leased, unpack(tokens))
    redis.call('ZREM', leases, unpack(tokens))
  end
end
