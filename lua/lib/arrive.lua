-- Makes messages leasable: at the tail of the list, or by their priority. (Whoever takes in a message with a priority
-- marks the state with it first.)
local function arrive(messages)
  local plain = messages
  if bit.band(flags, 4) ~= 0 then
    plain = {}
    for _, message in ipairs(messages) do
      local asks = special(message)
      if asks and asks.priority then
        rank(message, asks.priority, false)
      else
        plain[#plain + 1] = message
      end
    end
  end
  for i = 1, #plain, 1000 do
    redis.call('RPUSH', waiting, unpack(plain, i, math.min(i + 999, #plain)))
  end
end
