-- The time of the next thing that happens by itself: a delayed message is due, a lease can be reclaimed.
local function next_event(leases, delayed, q, hold)
  local event = 281474976710655
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if first[2] then
    event = reclaimable(q, tonumber(first[2]), hold)
  end
  first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if first[2] then
    event = math.min(event, tonumber(first[2]))
  end
  return event
end
