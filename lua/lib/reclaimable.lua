-- When a lease with this deadline may be reclaimed: at its deadline, but after an outage not before the workers had
-- one heartbeat's time to extend. Leases that had already run out before the outage are not held.
local function reclaimable(q, deadline, hold)
  if deadline > q.guard_from and deadline < q.guard_at + hold then
    return math.max(deadline, q.guard_at + hold)
  end
  return deadline
end
