-- How long an item waits after its n-th failed attempt: exponential, with a jitter between half and all of it; by its
-- own numbers, of what it asks for, or what is configured. The jitter derives from the token, since math.random is the
-- same on every run of a script.
local function backoff(attempts, token, asks, configured, configured_most)
  local base, most = tonumber(configured or 1000), tonumber(configured_most or 300000)
  if asks and asks.backoff then
    base = asks.backoff * 1000
  end
  if asks and asks.backoff_max then
    most = asks.backoff_max * 1000
  end
  local whole = math.min(base * 2 ^ math.min(attempts - 1, 40), most)
  return math.floor(whole * (0.5 + (token % 10007 * 7919) % 10007 / 20014))
end
