-- How many wake markers are at the head of a list: they are no items. Onto a list that is not empty none is pushed, so
-- those that matter are at the head.
local function markers(list)
  local count = 0
  while count < 100 and redis.call('LINDEX', list, count) == wake do
    count = count + 1
  end
  return count
end
