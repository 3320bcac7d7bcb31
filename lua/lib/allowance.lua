-- Runs where it is included, in `lease` on a queue with limits: how many this call may lease (`most`), and if not all,
-- why and until when. The rate is a token bucket in the form of one number, the generic cell rate algorithm (ITU-T
-- I.371): when the next would come if all came evenly, `ahead` of now in µs; a burst may be early by so much. It is kept
-- to a fraction of a µs, and never added to the clock here: a double has no room for both.
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
      local arrival, part
      arrival, part, told = struct.unpack('>I8I4I2', config[4])
      ahead = arrival - micros + part / 4294967296
    end
    -- Not later than an empty bucket: the clock may have gone back, or the rate have been raised.
    capped = ahead > burst * interval
    ahead = math.min(math.max(ahead, 0), burst * interval)
    local free = math.floor(burst - ahead / interval + 1e-6)
    if free < most then
      most, reason = free, 'rate'
      hint = math.max(math.ceil((ahead - (burst - 1) * interval) / 1000 - 1e-6), 1)
    end
  end
end
