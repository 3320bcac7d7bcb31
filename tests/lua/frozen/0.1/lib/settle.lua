-- Runs where it is included: completes the leases whose tokens are ARGV[from] and on. In `lost` are the positions,
-- from 0, of those that no longer held one.
do
  local removed = redis.call('ZREM', leases, unpack(ARGV, from))
  if removed <= #ARGV - from then
    for i = from, #ARGV do
      -- Its message is still there when this very call removed the lease.
      if redis.call('HEXISTS', leased, ARGV[i]) == 0 then
        lost[#lost + 1] = i - from
      end
    end
  end
  redis.call('HDEL', leased, unpack(ARGV, from))
  completed = completed + removed
end
