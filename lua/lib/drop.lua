-- Drops up to `limit` waiting messages, and frees what they hold. Those behind others of their group go first: else a
-- head that goes would let the next one go. Returns how many, and 1 when there may be more.
local function drop(limit)
  local places = { grouped, priority, delayed, handoff, waiting }
  local dropped, seen, bytes = 0, 0, 0
  for i, place in ipairs(places) do
    while seen < limit and bytes < 1048576 do
      -- First one: they can be large.
      local to = seen == 0 and 0 or math.min(15, math.floor((1048576 - bytes) / (bytes / seen + 1)))
      local found = i <= 3 and redis.call('ZRANGE', place, 0, to) or redis.call('LRANGE', place, 0, to)
      if #found == 0 then
        break
      end
      for j, message in ipairs(found) do
        if i == 1 then
          message = string.sub(message, string.find(message, '%z') + 15)
        elseif i <= 3 then
          message = string.sub(message, 9)
        end
        seen, bytes = seen + 1, bytes + #message
        dropped = dropped + (message == wake and 0 or 1)
        found[j] = { found[j], special(message), string.sub(message, 5, 20) }
      end
      local gone = {}
      for _, entry in ipairs(found) do
        if i <= 3 then
          redis.call('ZREM', place, entry[1])
        else
          redis.call('LPOP', place)
        end
        local asks = entry[2]
        if asks then
          gone[#gone + 1] = { entry[3], asks.unique, i > 1 and asks.group }
        end
      end
      free(gone)
    end
  end
  return dropped, (seen >= limit or bytes >= 1048576) and 1 or 0
end
