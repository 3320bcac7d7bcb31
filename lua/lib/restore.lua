-- Puts messages that were leased back to where they were taken from: the head of the list, the first of them first, or
-- before their equals in `priority`.
local function restore(messages)
  local reversed, ranked = {}, {}
  for i = #messages, 1, -1 do
    reversed[#reversed + 1] = messages[i]
  end
  if bit.band(flags, 4) ~= 0 then
    -- @include special
    reversed = {}
    for i = #messages, 1, -1 do
      local asks = special(messages[i])
      if asks and asks.priority then
        ranked[#ranked + 1] = { messages[i], asks.priority }
      else
        reversed[#reversed + 1] = messages[i]
      end
    end
  end
  -- @include wake
  if #reversed > 0 and redis.call('LINDEX', waiting, 0) == wake then
    redis.call('LPOP', waiting) -- behind an item it would be counted as one
  end
  for i = 1, #reversed, 1000 do
    redis.call('LPUSH', waiting, unpack(reversed, i, math.min(i + 999, #reversed)))
  end
  if #ranked > 0 then
    -- @include text
    -- @include issue
    -- @include uses
    -- @include rank
    for i = #ranked, 1, -1 do
      rank(ranked[i][1], ranked[i][2], true)
    end
  end
end
