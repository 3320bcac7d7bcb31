-- How many attempts an item has: its own number, or the queue's.
local function limits(message)
  local asks = special(message)
  return asks and asks.max_attempts or tonumber(redis.call('HGET', meta, 'max_attempts') or 5)
end
