-- Puts a message that can be leased into `priority`, after its equals, or before them when it was given back. Blocked
-- workers wait for the list: a marker in it wakes one.
local function rank(message, level, given_back)
  local score = given_back and string.format('%.1f', -level - 0.5) or text(-level)
  redis.call('ZADD', priority, score, struct.pack('>I8', issue(1)) .. message)
  uses(4)
  if redis.call('LLEN', waiting) == 0 then
    redis.call('RPUSH', waiting, wake)
  end
end
