-- Puts messages at the head of the waiting list, the first of them first.
local function restore(messages)
  local reversed = {}
  for i = #messages, 1, -1 do
    reversed[#reversed + 1] = messages[i]
  end
  for i = 1, #reversed, 1000 do
    redis.call('LPUSH', waiting, unpack(reversed, i, math.min(i + 999, #reversed)))
  end
end
