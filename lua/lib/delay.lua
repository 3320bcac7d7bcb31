-- Puts a message into `delayed`. The sequence before it keeps equal messages apart and equal times in order.
local function delay(message, milliseconds)
  local due = now + milliseconds
  redis.call('ZADD', delayed, text(due), struct.pack('>I8', issue(1)) .. message)
  if due < event then
    event, asked = due, 0
    -- A blocked worker asks again within two seconds by itself; what is due earlier must wake one, which then
    -- learns the time and wakes for it.
    if milliseconds < 2100 and redis.call('LLEN', waiting) == 0 then
      redis.call('RPUSH', waiting, wake)
    end
  end
end
