-- Completes the leases whose tokens are ARGV[from] to ARGV[to]. Returns the positions, from 0, of those that were lost.
local function settle(leases, leased, q, from, to)
  local lost = {}
  local removed = redis.call('ZREM', leases, unpack(ARGV, from, to))
  if removed <= to - from then
    for i = from, to do
      -- Its message is still there when this very call removed the lease.
      if redis.call('HEXISTS', leased, ARGV[i]) == 0 then
        lost[#lost + 1] = i - from
      end
    end
  end
  redis.call('HDEL', leased, unpack(ARGV, from, to))
  q.completed = q.completed + removed
  return lost
end
