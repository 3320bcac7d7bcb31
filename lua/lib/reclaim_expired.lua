-- Takes back up to `limit` leases that have run out: to the head of the list in their order, or to the dead letters
-- when their attempts are used up; or about `most` bytes of them. Returns how many of each, and their bytes.
local function reclaim_expired(limit, hold, most)
  local latest = now
  if now < guard_at + hold then
    latest = math.min(now, guard_from) -- the clock may have gone back since
  end
  local tokens = redis.call('ZRANGEBYSCORE', leases, '-inf', text(latest), 'LIMIT', 0, limit)
  if #tokens == 0 then
    return 0, 0, 0
  end
  table.sort(tokens)
  local config = redis.call('HGET', meta, 'max_attempts')
  local back, gone, letters, ended, bytes, missing = {}, {}, {}, {}, 0, 0
  for _, name in ipairs(tokens) do
    local value = redis.call('HGET', leased, name)
    if value then
      local token = tonumber(name)
      local message, attempts, worker = returned(value, token, 1, 1)
      if attempts >= limits(special(message), config) then
        letters[#letters + 1] = { token, message, worker }
        ended[#ended + 1] = name
      else
        back[#back + 1] = message
      end
      bytes = bytes + #message
    else
      missing = missing + 1
    end
    gone[#gone + 1] = name
    if bytes >= most then
      break
    end
  end
  restore(back)
  entomb(letters, 'expired', 'the lease ran out')
  unbind(ended)
  forget(gone)
  redis.call('HINCRBY', meta, 'expired', #back + #ended)
  if missing > 0 then
    -- Its message was taken away by somebody else (an eviction, a foreign HDEL); `stats` shows it.
    redis.call('HINCRBY', meta, 'missing', missing)
  end
  return #back, #ended, bytes
end
