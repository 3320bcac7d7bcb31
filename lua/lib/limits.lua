-- How many attempts an item has: its own number, of what it asks for, or what is configured.
local function limits(asks, configured)
  return asks and asks.max_attempts or tonumber(configured or 5)
end
