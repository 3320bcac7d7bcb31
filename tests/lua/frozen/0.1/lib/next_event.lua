-- The time of the next thing that happens by itself: a delayed message is due, a lease can be reclaimed.
local function next_event(hold)
  local soonest = 281474976710655
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if first[2] then
    soonest = reclaimable(tonumber(first[2]), hold)
  end
  first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if first[2] then
    soonest = math.min(soonest, tonumber(first[2]))
  end
  return soonest
end
