-- Frees what a message that is gone has held: its dedupe key, and its group, whose next message can go.
local function free(id, key, group)
  local taken = key and redis.call('HGET', unique, key)
  if taken == id .. '\0\0\0\0\0\0' then
    redis.call('HDEL', unique, key)
  end
  if group and redis.call('HGET', groups, group) == id then
    local next = redis.call('ZRANGEBYLEX', grouped, '[' .. group .. '\0', '(' .. group .. '\1', 'LIMIT', 0, 1)[1]
    if next then
      local due = struct.unpack('>I6', next, #group + 10)
      local message = string.sub(next, #group + 16)
      if due > now then
        delay(message, due - now)
      else
        arrive({ message })
      end
      redis.call('HSET', groups, group, string.sub(message, 5, 20))
      redis.call('ZREM', grouped, next)
    else
      redis.call('HDEL', groups, group)
    end
  end
end
