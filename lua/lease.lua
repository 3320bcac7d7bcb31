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
-- KEYS[11...] features: priority special unique unique_due groups grouped
-- ARGV[1] now ms, empty for the server's clock
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] n, 0 to 1000
-- ARGV[6] ttl ms, empty for the queue's own (60 s unless configured)
-- ARGV[7] worker, its name, at most 255 bytes
-- ARGV[8...] token, each lease to complete, at most 1000
-- Returns {'items', now, lost, first token, deadline, message...}: the i-th message has the token first + i - 1; in
--   the answer to a repeated call a lease that is gone since is nil
-- Returns {'empty'|'group'|'limit'|'rate'|'paused', now, lost, wait}: ms until something happens by itself, -1 when
--   nothing will. 'group': all that waits is behind a leased or delayed item of its group. Only on 'empty' and 'group'
--   may a worker block in BLMOVE
-- Returns {'drained', now, lost, sealed, fresh}: fresh is 1 on a queue that has never had an item
--   lost: the positions, from 0, of the tokens that no longer held a lease
-- Errors SCHEMA WIDE STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local calls0, calls1, handoff, delayed = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local dead, died = KEYS[9], KEYS[10]
local priority, bound, unique, unique_due = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local groups, grouped = KEYS[15], KEYS[16]

-- @include integer
-- @include text
-- @include wake
-- @include kind

-- @include open
-- @include begin
local n, ttl, longest = integer('n', ARGV[5], 0, 1000), ARGV[6], 1e13
if ttl == '' or bit.band(flags, 256) ~= 0 then
  local settings = redis.call('HMGET', meta, 'ttl', 'max_lease')
  ttl, longest = ttl ~= '' and ttl or settings[1] or 60000, tonumber(settings[2] or 1e13)
end
ttl = math.min(integer('ttl', ttl, 1, 1e13), longest)
if #ARGV[7] > 255 or #ARGV > 1007 then
  integer("length of the worker's name", #ARGV[7], 0, 255)
  integer('tokens', #ARGV - 7, 0, 1000)
end
if again then
  -- The answer once more: the same leases, as far as they still are.
  -- @include held
  local reply = { 'items', now, outcomes or {}, known_first, 0 }
  for token = known_first, known_first + known_count - 1 do
    local value = redis.call('HGET', leased, text(token))
    reply[#reply + 1] = value and held(value)
    if value then
      reply[5] = tonumber(redis.call('ZSCORE', leases, text(token)) or 0)
    end
  end
  return known_count > 0 and reply or { 'empty', now, outcomes or {}, 0 }
end

local lost, from = {}, 8
local paused = flags ~= 0 and math.floor(flags / 2) % 2 == 1
-- Without a lease or a delayed message nothing can be due, whatever the state says (or does not, on a new queue).
local due = now >= event and redis.call('ZCARD', leases) + redis.call('ZCARD', delayed) > 0
if now >= event and not due then
  event, asked = 281474976710655, 0
end
-- An answer that leased and settled nothing is not remembered.
local recorded = unseen or #ARGV > 7
local changed, settled, busy = recorded, #ARGV == 7, due or unseen
local messages, spoiled, bytes, looked, fresh, alone
local handed, listed, asking, members
local ranked, limited = bit.band(flags, 4) ~= 0, n > 0 and bit.band(flags, 96) ~= 0
-- With limits nothing is taken before it is settled and done what frees room.
local most, reason, hint, interval, ahead, told, capped = (paused or limited) and 0 or n, 'empty', -1, nil, 0, 0, false
local written, held_until = false, 0

-- Looks up what can be leased. Only then is anything written: by now every key was read, and a foreign type under one
-- of them cannot stop the script half-way. When something is due it is done, and then looked once more.
repeat
  messages, spoiled, bytes, looked, fresh, alone = {}, nil, 0, 0, 0, false
  handed, listed, asking, members = 0, 0, nil, nil
  -- The handoff, the positive priorities, the list, the negative ones.
  for source = 1, ranked and 4 or 3, ranked and 1 or 2 do
    local list = source == 1 and handoff or waiting
    local used, more = 0, most > 0
    if source == 1 or source == 3 and not more then
      more = redis.call('LLEN', list) > 0 and more -- the handoff is empty, but for moments
    end
    while more and #messages < most and not alone and bytes < 1048576 and looked < n + 100 do
      -- First one: they can be large.
      local want = 1
      if looked > 0 then
        want = math.min(most - #messages, 100, math.floor((1048576 - bytes) / math.max(bytes / looked, 1)))
      end
      if want == 0 then
        bytes = 1048576 -- another of them is too much
        break
      end
      local found
      if source % 2 == 1 then
        local to = used + want - 1
        found = redis.call('LRANGE', list, used == 0 and '0' or text(used), to == 0 and '0' or text(to))
      elseif source == 2 then
        found = redis.call('ZRANGEBYSCORE', priority, '-inf', '(0', 'LIMIT', used, want)
      else
        found = redis.call('ZRANGEBYSCORE', priority, '(0', '+inf', 'LIMIT', used, want)
      end
      more = #found == want
      for i = 1, #found do
        local member = found[i]
        local message, size = member, #member
        if source % 2 == 0 then
          message, size = string.sub(member, 9), size - 8
        end
        if looked > 0 and bytes + size > 1048576 then
          bytes = 1048576
          break
        end
        local what, asks, read = kind(message)
        if read then
          bytes = bytes + 20 * read -- which takes so many times as long as to move them
        end
        if what == 'suspect' then
          -- A suspect is leased alone: if it kills its worker again, no neighbour is charged for it.
          alone = true
          if #messages > 0 then
            break
          end
        end
        if what == 'malformed' then
          spoiled = spoiled or {}
          spoiled[#spoiled + 1] = message
        elseif what ~= 'marker' then
          messages[#messages + 1] = message
          if what == 'raw' then
            fresh = fresh + 1
          elseif asks then
            bytes = bytes + 6144 -- 140 of them take as long as 1 MiB
            if not grouped and not written then
              return redis.error_reply('WIDE a message asks for features: call with their keys too')
            end
            asking = asking or {}
            asking[#asking + 1] = #messages
          end
        end
        if source % 2 == 0 then
          members = members or {}
          members[#members + 1] = member
        end
        used, looked, bytes = used + 1, looked + 1, bytes + size
        if alone then
          break
        end
      end
    end
    if source == 1 then
      handed = used
    elseif source == 3 then
      listed = used
    end
  end
  if due or #messages == 0 then
    redis.call('ZCARD', delayed)
  end
  if due then
    redis.call('LLEN', waiting) -- not looked at when the handoff was enough
  end
  if due or spoiled then
    redis.call('HLEN', dead)
    redis.call('ZCARD', died)
  end
  redis.call('HLEN', leased)
  if settled then
    redis.call('ZCARD', leases) -- else ZREM is the first to write, and finds out
  end

  if busy or not settled or handed + listed > 0 or members then
    -- @include allowed
  end
  -- What is settled may let the next of its group go.
  local look_again = busy or limited or not settled and bit.band(flags, 128) ~= 0
  written = true
  if busy then
    -- @include resolve
  end
  if not settled then
    settled = true
    -- @include settle
  end
  if busy then
    busy = false
    if due then
      -- @include id_of
      -- @include returned
      -- @include restore
      -- @include forget
      -- @include entomb
      -- @include reclaimable
      -- @include issue
      -- @include uses
      -- @include special
      -- @include limits
      -- @include rank
      -- @include arrive
      -- @include unbind
      -- @include reclaim_expired
      -- @include promote
      -- @include next_event
      -- One heartbeat's time: see `reclaimable`.
      local hold = math.min(math.floor(ttl / 3), 5000)
      local _, _, moved = reclaim_expired(100, hold, 524288)
      promote(100, 524288 - moved)
      if bit.band(flags, 16) ~= 0 then
        -- @include sweep
        sweep(100)
      end
      local soonest
      soonest, held_until = next_event(hold)
      if soonest > now or held_until <= now then
        changed, asked = changed or soonest ~= event, 0 -- else it is held: those who asked before wait for it
      end
      event = soonest
    end
  end
  if limited then
    limited, most = false, paused and 0 or n
    -- @include allowance
  end
until not look_again

local deadline = now + ttl
if #messages > 0 then
  new_first, new_count = math.max(last + 1, micros), #messages
  last = new_first + new_count - 1
  raw = raw + fresh
  if deadline < event then
    event, asked = deadline, 0
  end
end
local spoiled_first
if spoiled then
  spoiled_first = math.max(last + 1, micros)
  last = spoiled_first + #spoiled - 1
end
if recorded or #messages > 0 then
  unusual = #lost > 0 and lost or nil
  -- @include remember
  changed = true
end
local bonds
if asking and grouped then
  -- @include special
  -- @include uses
  -- @include bond
  bonds = {}
  for _, i in ipairs(asking) do
    local value = bond(messages[i])
    if value then
      bonds[#bonds + 1] = text(new_first + i - 1)
      bonds[#bonds + 1] = value
      uses(16)
    end
  end
end
local saved = #messages > 0 or spoiled
if saved then
  -- Before the tokens are used: should this call stop half-way, no other may be given the same.
  -- @include save
end

if #messages > 0 then
  local holder, deadline_text = string.char(#ARGV[7]) .. ARGV[7], text(deadline)
  if #messages == 1 then
    local name = text(new_first)
    redis.call('HSET', leased, name, holder .. messages[1])
    redis.call('ZADD', leases, deadline_text, name)
  else
    local fields, scores = {}, {}
    for i = 1, #messages do
      local name = text(new_first + i - 1)
      fields[2 * i - 1], fields[2 * i] = name, holder .. messages[i]
    end
    -- The newest first: a small zset is a list that is searched from its low end.
    local length = #fields
    for place = 1, length, 2 do
      scores[place], scores[place + 1] = deadline_text, fields[length - place]
    end
    for i = 1, #fields, 1000 do
      local j = math.min(i + 999, #fields)
      redis.call('HSET', leased, unpack(fields, i, j))
      redis.call('ZADD', leases, unpack(scores, i, j))
    end
  end
  if interval then
    ahead, told = ahead + #messages * interval, 0
    -- @include bucket
  end
  if bonds and #bonds > 0 then
    for i = 1, #bonds, 1000 do
      redis.call('HSET', bound, unpack(bonds, i, math.min(i + 999, #bonds)))
    end
  end
end
if spoiled then
  -- @include id_of
  -- @include entomb
  for i, message in ipairs(spoiled) do
    spoiled[i] = { spoiled_first + i - 1, message, '' }
  end
  entomb(spoiled, 'malformed', '')
end
if handed > 0 then
  redis.call('LTRIM', handoff, handed, -1)
end
if listed == 1 and bytes < 4096 then
  redis.call('LPOP', waiting) -- half of LTRIM's cost, but that it answers with a large one
elseif listed > 0 then
  redis.call('LTRIM', waiting, text(listed), '-1')
end

if members then
  redis.call('ZREM', priority, unpack(members))
end
if ranked and #messages > 0 and redis.call('LLEN', waiting) == 0 and redis.call('ZCARD', priority) > 0 then
  redis.call('RPUSH', waiting, wake) -- the next blocked worker; it wakes one more
end

local reply
if #messages > 0 then
  reply = { 'items', now, lost, new_first, deadline }
  for i = 1, #messages do
    reply[i + 5] = messages[i]
  end
else
  local behind = bit.band(flags, 128) ~= 0 and redis.call('ZCARD', grouped) or 0
  local elsewhere = ranked and redis.call('ZCARD', priority) or 0
  local unready = behind + redis.call('ZCARD', leases) + redis.call('ZCARD', delayed)
  for _ = 1, (most == 0 and elsewhere + unready == 0) and 100 or 0 do
    -- Nobody looked at the lists: a marker is all that there may be.
    local list = redis.call('LLEN', handoff) > 0 and handoff or waiting
    if redis.call('LINDEX', list, 0) ~= wake then
      break
    end
    redis.call('LPOP', list)
  end
  local leasable = redis.call('LLEN', waiting) + redis.call('LLEN', handoff) + elsewhere
  if leasable + unready == 0 then
    reply = { 'drained', now, lost, flags % 2, (last == 0 and pushed == 0) and 1 or 0 }
  elseif paused then
    reply = { 'paused', now, lost, -1 }
  elseif reason == 'rate' and most == 0 and leasable > 0 then
    if hint < 2000 then
      -- The first to ask is told when the next may go, each later one the time of one more. Longer than this nobody
      -- sleeps: they will all ask again before it.
      hint, told = math.ceil(hint + told * interval / 1000), math.min(told + 1, 65535)
    end
    if told > 0 or capped then
      -- @include bucket
    end
    reply = { 'rate', now, lost, hint }
  else
    local wait = -1
    if looked >= n + 100 or bytes >= 1048576 then
      wait = 0
    elseif event < 281474976710655 then
      wait = math.max(event - now, held_until - now, 0)
      if wait < 2000 then
        -- The first to ask is told the time itself, each later one 50 ms more: no herd wakes, and if the first is dead
        -- the next is not far.
        wait = wait + asked * 50
        asked = math.min(asked + 1, 65535)
        changed = true
      end
    end
    local word = behind > 0 and leasable == 0 and 'group' or 'empty'
    reply = { reason == 'limit' and most == 0 and leasable > 0 and 'limit' or word, now, lost, wait }
  end
end

-- Of an idle fleet's polls enough are written to show that somebody is calling, and none that would make a queue: it
-- may have been deleted.
local stale = math.abs(now - called) >= 1000
if not saved and (handed > 0 or listed > 0 or members or recorded or packed and (changed or stale)) then
  -- @include save
end
return reply
