#!lua flags=no-writes
-- A page of one part of the queue, looked through for what cannot be: nothing changed. What it finds was so at that
-- instant; `repair` looks once more before it mends it.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] priority ZSET
-- KEYS[8] special HASH
-- KEYS[9] unique HASH
-- KEYS[10] unique_due ZSET
-- KEYS[11] groups HASH
-- KEYS[12] grouped ZSET
-- KEYS[13] delayed ZSET
-- KEYS[14] handoff LIST
-- KEYS[15] dead HASH
-- KEYS[16] died ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] part, the name of a key, or 'keys' for all of them as a whole, their types and the state
-- ARGV[3] cursor, 0 at first. Lists are read from the tail: so none is missed that stays while others are taken
-- ARGV[4] count, about how many to read, 1 to 1000
-- ARGV[5...] id, 16 bytes, at most 1000: where is it?
-- Returns {now, next cursor or '', items, raw, malformed, markers, highest token, ids, problems, found, pairs}: the ids,
--   16 bytes each, in one string; {kind, where, ref, id, detail, ...}; {where, ref, id, ...}; {group or dedupe key, id,
--   ...}. ref is a place's position from the tail, member, token or id. A page ends early at 1 MiB
-- Returns for 'keys' {now, '', stamp of what was given back, stamp of everything, last token, problems, {name, value,
--   ...}}: the counters and the lengths; the stamps are empty when a key has another type or the state is damaged
-- Errors SCHEMA CLOCK ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due, groups, grouped, delayed = unpack(KEYS, 7)
local handoff, dead, died = KEYS[14], KEYS[15], KEYS[16]

-- @include integer

local part, problems = ARGV[2], {}
local function problem(kind, where, ref, id, detail)
  for _, value in ipairs({ kind, where, tostring(ref), id or '', detail or '' }) do
    problems[#problems + 1] = value
  end
end

local stateless = false
if part == 'keys' then
  local types = {
    waiting = 'list',
    handoff = 'list',
    leases = 'zset',
    priority = 'zset',
    unique_due = 'zset',
    grouped = 'zset',
    delayed = 'zset',
    died = 'zset',
  }
  local names = { 'waiting', 'leases', 'leased', 'meta', 'calls0', 'calls1', 'priority', 'special' }
  for _, name in ipairs({ 'unique', 'unique_due', 'groups', 'grouped', 'delayed', 'handoff', 'dead', 'died' }) do
    names[#names + 1] = name
  end
  local foreign, others = false, false
  for i, name in ipairs(names) do
    local key = KEYS[i]
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' then
      others = others or name ~= 'waiting' and name ~= 'handoff'
      if found ~= (types[name] or 'hash') then
        problem('type', name, '', '', found)
        foreign = true
      end
      if redis.call('PTTL', key) >= 0 then
        problem('ttl', name, '')
      end
    end
  end
  if foreign then
    return { 0, '', '', '', 0, problems, {} }
  end
  local state = redis.call('HGET', meta, 'state')
  if state and (#state == 0 or string.byte(state) <= 2 and (#state < 63 or string.byte(state) == 0)) then
    problem('state', 'meta', '', '', 'damaged')
    return { 0, '', '', '', 0, problems, {} }
  end
  stateless = not state and others
end

-- @include open
-- @include wake
-- @include markers
-- @include kind
-- @include special
-- @include held
-- @include id_of
-- @include uses
-- @include bond
-- @include counters
-- @include settings
-- @include sound
-- @include stamp
-- @include wants
-- @include letter
-- @include inside
-- @include whole

if part == 'keys' then
  if stateless then
    problem('state', 'meta', '', '', 'missing')
  end
  if bit.band(wants(), bit.bnot(flags)) ~= 0 then
    problem('flags', 'meta', '')
  end
  -- A lease that ran out in an outage is looked at only when its worker has had time to extend it.
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
  local soonest = tonumber(first or 281474976710655)
  if soonest > guard_from and soonest < guard_at + 5000 then
    soonest = math.max(soonest, guard_at + 5000)
  end
  first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  if event > math.min(soonest, tonumber(first or 281474976710655)) then
    problem('event', 'meta', '')
  end
  if packed and math.max(called, rotated, guard_from, guard_at) > now + 60000 then
    problem('clock', 'meta', '')
  end
  for _, names in ipairs({ counters, settings, { 'bucket' } }) do
    for i, value in ipairs(redis.call('HMGET', meta, unpack(names))) do
      if value and not sound(names[i], value) then
        problem('field', 'meta', names[i], '', string.sub(value, 1, 100))
      end
    end
  end
  local back, all, values = stamp()
  local facts = { 'pushed', pushed, 'raw', raw, 'completed', completed, 'head markers', markers(waiting) }
  for i, name in ipairs(counters) do
    facts[#facts + 1] = name
    facts[#facts + 1] = values[i]
  end
  return { now, '', back, all, last, problems, facts }
end

local count, cursor = integer('count', ARGV[4], 1, 1000), ARGV[3]
local wanted = {}
for i = 5, integer('arguments', #ARGV, 4, 1004) do
  wanted[ARGV[i]] = true
end
local items, raws, malformed, marked, highest, bytes, read = 0, 0, 0, 0, 0, 0, 0
local ids, found, couples = {}, {}, {}

local function seen(where, ref, id)
  ids[#ids + 1] = id
  if wanted[id] then
    found[#found + 1] = where
    found[#found + 1] = tostring(ref)
    found[#found + 1] = id
  end
end

-- A message of somebody who is neither done nor dead.
local function look(where, ref, message, token)
  if message == wake then
    marked = marked + 1
    return
  end
  items = items + 1
  local what, asking = kind(message)
  if not token and (what == 'raw' or what == 'malformed') then
    raws = raws + (what == 'raw' and 1 or 0)
    malformed = malformed + (what == 'raw' and 0 or 1)
    return
  end
  local id = what == 'raw' and id_of(token) or string.sub(message, 5, 20)
  if #id < 16 then
    return
  end
  seen(where, ref, id)
  local asks = asking and special(message)
  if not asks then
    return
  end
  if asks.unique and not asks.timed then
    local owner = redis.call('HGET', unique, asks.unique)
    if not owner then
      problem('unheld', where, ref, id, asks.unique)
    elseif string.sub(owner, 1, 16) ~= id then
      problem('conflict', where, ref, id, asks.unique)
    end
  end
  if asks.group and where ~= 'grouped' then
    local head = redis.call('HGET', groups, asks.group)
    if head ~= id then
      problem(head and 'rival' or 'unled', where, ref, id, asks.group)
    end
  end
end

-- For each part: its key, whether it is a sorted set, what to do with an entry.
local looks = {}
for where, key in pairs({ priority = priority, delayed = delayed, grouped = grouped }) do
  looks[where] = {
    key,
    true,
    function(member)
      local message, group = inside(where, member)
      bytes = bytes + #member
      if not message then
        problem('damaged', where, member)
        return
      end
      look(where, member, message)
      if group and redis.call('HEXISTS', groups, group) == 0 then
        problem('headless', where, '', '', group)
      end
    end,
  }
end
looks.leased = {
  leased,
  false,
  function(name, value)
    bytes = bytes + #value
    local token = string.find(name, '^[1-9]%d*$') and tonumber(name)
    if not whole(value) then
      items = items + 1
      problem('damaged', 'leased', name)
      return
    end
    if not token or token > 2 ^ 53 or not redis.call('ZSCORE', leases, name) then
      problem('leased', 'leased', name)
    end
    if token and token <= 2 ^ 53 then
      highest = math.max(highest, token)
      local message = held(value)
      look('leased', name, message, token)
      if (redis.call('HGET', bound, name) or nil) ~= bond(message) then
        problem('special', 'special', name)
      end
    else
      items = items + 1
    end
  end,
}
looks.leases = {
  leases,
  true,
  function(name)
    if redis.call('HEXISTS', leased, name) == 0 then
      problem('lease', 'leases', name)
    end
  end,
}
looks.special = {
  bound,
  false,
  function(name)
    if redis.call('HEXISTS', leased, name) == 0 and not redis.call('ZSCORE', leases, name) then
      problem('special', 'special', name)
    end
  end,
}
looks.dead = {
  dead,
  false,
  function(id, record)
    local message = letter(record)
    bytes, items = bytes + #record, items + 1
    if not message then
      problem('damaged', 'dead', id)
      malformed = malformed + 1
      return
    end
    local what = kind(message)
    malformed = malformed + ((what == 'raw' or what == 'malformed') and 1 or 0)
    if not redis.call('ZSCORE', died, id) then
      problem('died', 'dead', id)
    end
    if #id == 16 then
      seen('dead', id, id)
    end
    local own = string.sub(message, 5, 20)
    if own ~= id and (what == 'envelope' or what == 'suspect') then
      seen('dead', id, own)
    end
  end,
}
looks.died = {
  died,
  true,
  function(id)
    if redis.call('HEXISTS', dead, id) == 0 then
      problem('dead', 'died', id)
    end
  end,
}
looks.unique = {
  unique,
  false,
  function(key, value)
    local expiry = #value == 22 and struct.unpack('>I6', value, 17)
    local due = tonumber(redis.call('ZSCORE', unique_due, key) or 0)
    if expiry ~= due then
      problem('due', 'unique', key)
    elseif expiry == 0 then
      couples[#couples + 1] = key
      couples[#couples + 1] = string.sub(value, 1, 16)
    end
  end,
}
looks.unique_due = {
  unique_due,
  true,
  function(key)
    if redis.call('HEXISTS', unique, key) == 0 then
      problem('due', 'unique_due', key)
    end
  end,
}
looks.groups = {
  groups,
  false,
  function(group, id)
    couples[#couples + 1] = group
    couples[#couples + 1] = id
  end,
}
for where, key in pairs({ calls0 = calls0, calls1 = calls1 }) do
  looks[where] = {
    key,
    false,
    function(slot, record)
      if #record < 18 then
        problem('call', where, slot)
      end
    end,
  }
end

-- Few at a time: they can be large.
if part == 'waiting' or part == 'handoff' then
  local key, at = part == 'waiting' and waiting or handoff, integer('cursor', cursor, 0, 2 ^ 53)
  cursor = ''
  repeat
    local some = redis.call('LRANGE', key, -at - 16, -at - 1)
    for i = #some, 1, -1 do
      look(part, at + #some - i, some[i])
      bytes = bytes + #some[i]
    end
    at, read = at + #some, read + #some
  until #some < 16 or read >= count or bytes >= 1048576
  if at < redis.call('LLEN', key) then
    cursor = string.format('%d', at)
  end
elseif looks[part] then
  local key, sorted, each = unpack(looks[part])
  repeat
    local page = sorted and redis.call('ZSCAN', key, cursor, 'COUNT', 16)
      or redis.call('HSCAN', key, cursor, 'COUNT', 16)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      each(page[2][i], page[2][i + 1])
    end
    read = read + #page[2] / 2
    bytes = bytes + 16 -- an empty page is not free either
  until cursor == '0' or read >= count or bytes >= 1048576
  cursor = cursor ~= '0' and cursor or ''
else
  return redis.error_reply('ARGUMENT there is no such part of a queue')
end
return {
  now,
  cursor,
  items,
  raws,
  malformed,
  marked,
  highest,
  table.concat(ids),
  problems,
  found,
  couples,
}
