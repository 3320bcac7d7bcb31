-- What else is in `meta` beside the state.
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
  'bucket',
}
