-- Runs where it is included, in `lease` on a queue with limits: how many this call may lease (`most`), and if not all,
-- why and until when. The rate is a token bucket in the form of one number, the generic cell rate algorithm (ITU-T
-- I.371): `arrival`, in µs, is when the next would come if all came evenly; a burst may be early by so much.
do
  local config = redis.call('HMGET', meta, 'max_leased', 'rate', 'burst', 'bucket')
  if config[1] then
    local free = math.max(tonumber(config[1]) - redis.call('HLEN', leased), 0)
    if free < most then
      most, reason = free, 'limit'
    end
  end
  if config[2] then
    interval = 1000000 / tonumber(config[2])
    local burst = tonumber(config[3] or math.max(math.floor(tonumber(config[2])), 1))
    if config[4] then
      arrival, told = struct.unpack('>I8I2', config[4])
    end
    -- Not later than an empty bucket: the clock may have gone back, or the rate have been raised.
    arrival = math.min(math.max(arrival, micros), micros + burst * interval)
    local free = math.floor((micros + burst * interval - arrival) / interval + 1e-6)
    if free < most then
      most, reason = free, 'rate'
      hint = math.ceil((arrival - (burst - 1) * interval - micros) / 1000)
    end
  end
end
