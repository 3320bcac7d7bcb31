-- Puts a message into `delayed`. The sequence before it keeps equal messages apart and equal times in order.
local function delay(message, milliseconds)
  local due = now + milliseconds
  redis.call('ZADD', delayed, text(due), struct.pack('>I8', issue(1)) .. message)
  -- A blocked worker asks again within two seconds by itself, or at the next event if it was told of that. What is due
  -- earlier must wake one, which then learns the time and wakes for it.
  local told = asked > 0 and event > now and event <= due
  if milliseconds < 2100 and not told and redis.call('LLEN', waiting) == 0 then
    redis.call('RPUSH', waiting, wake)
  end
  if due < event then
    event, asked = due, 0
  end
end
