-- Checks the assembled scripts (`make lint` writes them to build/lua): a helper of lua/lib is used, and its own
-- helpers are defined, only in the script that includes it.
std = 'lua51'
read_globals = { 'ARGV', 'KEYS', 'bit', 'cjson', 'cmsgpack', 'redis', 'struct' }
-- Of Lua 5.1, what Redis 7.0 does not have, and what would run other code than the file's own.
not_globals = {
  'debug',
  'dofile',
  'getfenv',
  'io',
  'load',
  'loadfile',
  'loadstring',
  'module',
  'newproxy',
  'os',
  'package',
  'print',
  'require',
  'setfenv',
}
max_line_length = 124 -- it counts bytes, and a character beyond ASCII has several
-- 431, shadowing: a key has one name, in the script and in the helper that it is passed to.
-- The rest: `open` and `begin` make locals that not every script needs.
ignore = {
  '421',
  '431',
  '211/_.*',
  '231/last',
  '231/event',
  '231/asked',
  '231/guard_from',
  '231/rotated',
  '231/pushed',
  '231/completed',
  '231/raw',
  '231/tail',
  '231/outcomes',
  '311/guard_at',
  '311/unusual',
  '311/version',
}
