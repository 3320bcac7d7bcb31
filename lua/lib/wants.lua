-- The flags that the state must have, by what there is.
local function wants()
  local asked = redis.call('HMGET', meta, 'rate', 'max_leased', 'max_waiting', 'max_bytes', 'ttl', 'max_lease')
  local there = redis.call('HLEN', groups) + redis.call('ZCARD', grouped) > 0
  local held = there or redis.call('HLEN', bound) + redis.call('HLEN', unique) > 0
  return (redis.call('ZCARD', priority) > 0 and 4 or 0)
    + (held and 16 or 0)
    + (asked[1] and 32 or 0)
    + ((asked[2] or asked[3] or asked[4]) and 64 or 0)
    + (there and 128 or 0)
    + ((asked[5] or asked[6]) and 256 or 0)
end
