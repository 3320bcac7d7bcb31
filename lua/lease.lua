#!lua flags=allow-oom
-- Completes the given leases, takes back what has expired, and leases up to n messages: one call of a worker's loop.
--
-- KEYS[1] waiting LIST
-- KEYS[2] leases ZSET
-- KEYS[3] leased HASH
-- KEYS[4] meta HASH
-- KEYS[5] calls0 HASH
-- KEYS[6] calls1 HASH
-- KEYS[7] handoff LIST
-- KEYS[8] delayed ZSET
-- KEYS[9] dead HASH
-- KEYS[10] died ZSET
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] n, 0 to 1000
-- ARGV[6] ttl ms
-- ARGV[7] worker, its name, at most 255 bytes
-- ARGV[8...] token, each lease to complete, at most 1000
-- Returns {'items', now, lost, first token, deadline, message...}: the i-th message has the token first + i - 1; in
--   the answer to a repeated call a lease that is gone since is nil
-- Returns {'empty'|'paused', now, lost, wait}: ms until something happens by itself, -1 when nothing will
-- Returns {'drained', now, lost, sealed, fresh}: fresh is 1 on a queue that has never had an item
--   lost: the positions, from 0, of the tokens that no longer held a lease
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local calls0, calls1, handoff, delayed = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local dead, died = KEYS[9], KEYS[10]

-- @include text
-- @include integer
-- @include open
-- @include save
-- @include allowed
-- @include begin
-- @include issue
-- @include id_of
-- @include returned
-- @include held
-- @include restore
-- @include forget
-- @include resolve
-- @include finish
-- @include settle
-- @include entomb
-- @include reclaimable
-- @include reclaim_expired
-- @include promote
-- @include next_event
-- @include wake
-- @include kind

local n, ttl = integer('n', ARGV[5], 0, 1000), integer('ttl', ARGV[6], 1, 1e13)
integer("length of the worker's name", #ARGV[7], 0, 255)
local holder = string.char(#ARGV[7]) .. ARGV[7]
integer('tokens', #ARGV - 7, 0, 1000)

-- The answer to a copy of a call that was carried out: the same leases, as far as they still are.
local function repeated(q)
  local reply = { 'items', q.now, q.outcomes or {}, q.first, 0 }
  for token = q.first, q.first + q.count - 1 do
    local value = redis.call('HGET', leased, text(token))
    reply[#reply + 1] = value and held(value)
    if value then
      reply[5] = tonumber(redis.call('ZSCORE', leases, text(token)) or 0)
    end
  end
  return q.count > 0 and reply or { 'empty', q.now, q.outcomes or {}, 0 }
end

local q = begin()
if q.again then
  return repeated(q)
end

local due = q.now >= q.event
local paused = math.floor(q.flags / 2) % 2 == 1
local messages, spoiled, bytes, looked, raw, alone
local handed, listed

-- Reads from the head of a list what can be leased; returns how many of its elements that uses up.
local function take(list)
  local used = 0
  while #messages < n and not alone and bytes < 4194304 and looked < n + 100 do
    -- Few at a time: they can be large, and those that follow larger than those before.
    local want = math.min(n - #messages, 10)
    if #messages > 0 then
      want = math.min(n - #messages, 100, math.ceil((4194304 - bytes) / (bytes / #messages + 1)))
    end
    local found = redis.call('LRANGE', list, used, used + want - 1)
    for _, message in ipairs(found) do
      if #messages > 0 and bytes + #message > 4194304 then
        bytes = 4194304
        return used
      end
      local what = kind(message)
      if what == 'suspect' then
        -- A suspect is leased alone: if it kills its worker again, no neighbour is charged for it.
        alone = true
        if #messages > 0 then
          return used
        end
      end
      if what == 'malformed' then
        spoiled[#spoiled + 1] = message
      elseif what ~= 'marker' then
        messages[#messages + 1] = message
        bytes = bytes + #message
        if what == 'raw' then
          raw = raw + 1
        end
      end
      used, looked = used + 1, looked + 1
      if alone then
        return used
      end
    end
    if #found < want then
      break
    end
  end
  return used
end

local function look()
  messages, spoiled, bytes, looked, raw, alone = {}, {}, 0, 0, 0, false
  handed, listed = 0, 0
  if paused or n == 0 then
    redis.call('LLEN', handoff)
    redis.call('LLEN', waiting)
  else
    handed = take(handoff)
    listed = take(waiting)
  end
  if due or #messages == 0 then
    redis.call('ZCARD', delayed)
  end
  if due or #spoiled > 0 then
    redis.call('HLEN', dead)
    redis.call('ZCARD', died)
  end
end

-- Every key is read before anything is written: a foreign type under one of them must not stop the script half-way.
look()
redis.call('HLEN', leased)
redis.call('ZCARD', leases)

resolve(q)
local lost = #ARGV > 7 and settle(leases, leased, q, 8, #ARGV) or {}
-- An answer that leased and settled nothing is not remembered.
local recorded = q.unseen or #ARGV > 7
local changed = recorded

if due then
  -- One heartbeat's time: see `reclaimable`.
  local hold = math.min(math.floor(ttl / 3), 5000)
  reclaim_expired(waiting, leases, leased, dead, died, meta, q, 100, hold)
  promote(delayed, waiting, q, 100)
  local event = next_event(leases, delayed, q, hold)
  changed = changed or event ~= q.event
  q.event, q.asked = event, 0
end
if due or q.unseen then
  look()
end

local deadline = q.now + ttl
local first
if #messages > 0 then
  first = issue(q, #messages)
  local fields, scores, deadline_text = {}, {}, text(deadline)
  for i = 1, #messages do
    local name = text(first + i - 1)
    fields[2 * i - 1], fields[2 * i] = name, holder .. messages[i]
    -- The newest first: a small zset is a list that is searched from its low end.
    local place = 2 * (#messages - i)
    scores[place + 1], scores[place + 2] = deadline_text, name
  end
  for i = 1, #fields, 1000 do
    local j = math.min(i + 999, #fields)
    redis.call('HSET', leased, unpack(fields, i, j))
    redis.call('ZADD', leases, unpack(scores, i, j))
  end
  q.raw = q.raw + raw
  if deadline < q.event then
    q.event, q.asked = deadline, 0
  end
end
for _, message in ipairs(spoiled) do
  entomb(dead, died, meta, q, issue(q, 1), message, '', 'malformed', '')
end
if handed > 0 then
  redis.call('LTRIM', handoff, handed, -1)
end
if listed > 0 then
  redis.call('LTRIM', waiting, listed, -1)
end

local reply
if #messages > 0 then
  reply = { 'items', q.now, lost, first, deadline }
  for i = 1, #messages do
    reply[i + 5] = messages[i]
  end
elseif
  redis.call('ZCARD', leases)
    + redis.call('ZCARD', delayed)
    + redis.call('LLEN', waiting)
    + redis.call('LLEN', handoff)
  == 0
then
  reply = { 'drained', q.now, lost, q.flags % 2, (q.last == 0 and q.pushed == 0) and 1 or 0 }
elseif paused then
  reply = { 'paused', q.now, lost, -1 }
else
  local wait = -1
  if looked >= n + 100 then
    wait = 0
  elseif q.event < 281474976710655 then
    wait = math.max(q.event - q.now, 0)
    if wait < 2000 then
      -- The first to ask is told the time itself, each later one 50 ms more: no herd wakes, and if the first is dead
      -- the next is not far.
      wait = wait + q.asked * 50
      q.asked = math.min(q.asked + 1, 65535)
      changed = true
    end
  end
  reply = { 'empty', q.now, lost, wait }
end

if recorded or #messages > 0 then
  finish(q, first or 0, #messages, #lost > 0 and lost or nil)
elseif handed > 0 or listed > 0 or not q.new and (changed or q.now - q.called >= 1000) then
  -- Of an idle fleet's polls enough are written to show that somebody is calling, and none that would make a queue:
  -- it may have been deleted.
  save(meta, q)
end
return reply
