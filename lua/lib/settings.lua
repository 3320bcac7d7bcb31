-- What `configure` keeps in `meta`.
local settings = {
  'max_attempts',
  'backoff_base',
  'backoff_max',
  'ttl',
  'max_lease',
  'max_leased',
  'max_waiting',
  'max_bytes',
  'rate',
  'burst',
}
