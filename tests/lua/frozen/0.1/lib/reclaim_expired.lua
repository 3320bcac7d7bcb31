-- Takes back up to `limit` leases that have run out: to the head of the list in their order, or to the dead letters
-- when their attempts are used up. Returns how many of each.
local function reclaim_expired(limit, hold)
  local latest = now
  if now < guard_at + hold then
    latest = math.min(now, guard_from) -- the clock may have gone back since
  end
  local tokens = redis.call('ZRANGEBYSCORE', leases, '-inf', text(latest), 'LIMIT', 0, limit)
  if #tokens == 0 then
    return 0, 0
  end
  table.sort(tokens)
  local max_attempts = tonumber(redis.call('HGET', meta, 'max_attempts') or 5)
  local back, gone, bytes, missing, buried = {}, {}, 0, 0, 0
  for _, name in ipairs(tokens) do
    local value = redis.call('HGET', leased, name)
    if value then
      local token = tonumber(name)
      local message, worker = held(value)
      local attempts
      message, attempts = returned(message, token, 1, 1)
      if attempts >= max_attempts then
        entomb(token, message, worker, 'expired', 'the lease ran out')
        buried = buried + 1
      else
        back[#back + 1] = message
      end
      bytes = bytes + #message
    else
      missing = missing + 1
    end
    gone[#gone + 1] = name
    if bytes > 4194304 then
      break
    end
  end
  restore(back)
  forget(gone)
  redis.call('HINCRBY', meta, 'expired', #back + buried)
  if missing > 0 then
    -- Its message was taken away by somebody else (an eviction, a foreign HDEL); `stats` shows it.
    redis.call('HINCRBY', meta, 'missing', missing)
  end
  return #back, buried
end
