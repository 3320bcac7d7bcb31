-- Forgets up to `limit` dedupe keys whose time is over.
local function sweep(limit)
  local keys = redis.call('ZRANGEBYSCORE', unique_due, '-inf', text(now), 'LIMIT', 0, limit)
  if #keys > 0 then
    redis.call('HDEL', unique, unpack(keys))
    redis.call('ZREM', unique_due, unpack(keys))
  end
end
