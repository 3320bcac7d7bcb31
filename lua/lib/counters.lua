-- The counters of `meta`; first those of items that were given back.
local counters = {
  'released',
  'failed',
  'expired',
  'unseen',
  'redriven',
  'dead',
  'missing',
  'imported',
  'purged',
  'adjusted',
}
