-- Frees what messages that are gone have held, each {id, dedupe key or nil, group or nil}, at most 1,000: their keys, and
-- their groups, whose next messages can go. All at once: a command for each would take several times as long.
local function free(gone)
  local keys, owners, led, leaders = {}, {}, {}, {}
  for _, entry in ipairs(gone) do
    if entry[2] then
      keys[#keys + 1], owners[#owners + 1] = entry[2], entry[1] .. '\0\0\0\0\0\0'
    end
    if entry[3] then
      led[#led + 1], leaders[#leaders + 1] = entry[3], entry[1]
    end
  end
  if #keys > 0 then
    local freed = {}
    for i, taken in ipairs(redis.call('HMGET', unique, unpack(keys))) do
      if taken == owners[i] then
        freed[#freed + 1] = keys[i]
      end
    end
    if #freed > 0 then
      redis.call('HDEL', unique, unpack(freed))
    end
  end
  if #led == 0 then
    return
  end
  local ready, later, moved, heads, empty, bytes = {}, {}, {}, {}, {}, 0
  local function flush()
    arrive(ready)
    for _, entry in ipairs(later) do
      delay(entry[1], entry[2])
    end
    if #moved > 0 then
      redis.call('HSET', groups, unpack(heads))
      redis.call('ZREM', grouped, unpack(moved))
    end
    ready, later, moved, heads, bytes = {}, {}, {}, {}, 0
  end
  local done = {}
  for i, head in ipairs(redis.call('HMGET', groups, unpack(led))) do
    local group = led[i]
    if head == leaders[i] and not done[group] then
      done[group] = true
      local next = redis.call('ZRANGEBYLEX', grouped, '[' .. group .. '\0', '(' .. group .. '\1', 'LIMIT', 0, 1)[1]
      if next then
        local due, message = struct.unpack('>I6', next, #group + 10), string.sub(next, #group + 16)
        if due > now then
          later[#later + 1] = { message, due - now }
        else
          ready[#ready + 1] = message
        end
        moved[#moved + 1], bytes = next, bytes + #next
        heads[#heads + 1] = group
        heads[#heads + 1] = string.sub(message, 5, 20)
        if #moved == 500 or bytes > 1048576 then
          flush()
        end
      else
        empty[#empty + 1] = group
      end
    end
  end
  flush()
  if #empty > 0 then
    redis.call('HDEL', groups, unpack(empty))
  end
end
