-- When a lease with this deadline may be reclaimed: at its deadline, but after an outage not before the workers had
-- one heartbeat's time to extend. Leases that had already run out before the outage are not held.
local function reclaimable(deadline, hold)
  if deadline > guard_from and deadline < guard_at + hold then
    return math.max(deadline, guard_at + hold)
  end
  return deadline
end
