-- The time of the next thing that happens by itself: a delayed message is due, a lease runs out. And when it can be
-- for who holds leases after an outage so long: that is each caller's own matter, so the state keeps the first.
local function next_event(hold)
  local soonest, held = 281474976710655, 281474976710655
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if first[2] then
    soonest = tonumber(first[2])
    held = reclaimable(soonest, hold)
  end
  first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if first[2] then
    soonest, held = math.min(soonest, tonumber(first[2])), math.min(held, tonumber(first[2]))
  end
  return soonest, held
end
