-- How long an item waits after its n-th failed attempt: exponential, with a jitter between half and all of it. The
-- jitter derives from the token, since math.random is the same on every run of a script.
local function backoff(attempts, token)
  local config = redis.call('HMGET', meta, 'backoff_base', 'backoff_max')
  local base, most = tonumber(config[1] or 1000), tonumber(config[2] or 300000)
  local whole = math.min(base * 2 ^ math.min(attempts - 1, 40), most)
  return math.floor(whole * (0.5 + (token % 10007 * 7919) % 10007 / 20014))
end
