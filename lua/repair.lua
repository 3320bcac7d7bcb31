#!lua flags=allow-oom
-- Mends one thing that `check` has found, if it is still so: on a live queue it may have been right for a moment only.
-- The destination is written before the source is removed.
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
-- ARGV[2] slot 8 bytes
-- ARGV[3] number of the call
-- ARGV[4] ack, the last number whose recorded reply was seen
-- ARGV[5] write, 1 to mend it, 0 to say whether it is so: then nothing is written
-- ARGV[6] kind of what was found
-- ARGV[7] where
-- ARGV[8] ref
-- ARGV[9] id
-- ARGV[10] detail
-- ARGV[11] other_where, of `surplus` what is kept
-- ARGV[12] other_ref
-- ARGV[13] stamp, that of what was given back before all places were looked through
-- Returns 'done', 'found' (not written), 'fine' (it is not so, or not any more), 'busy' (items were given back meanwhile:
--   look again) or 'differs' (the same id, but not the same payload: nothing is removed)
-- Errors SCHEMA STALE CLOCK NOPERM ARGUMENT WRONGTYPE

local waiting, leases, leased, meta, calls0, calls1 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local priority, bound, unique, unique_due, groups, grouped, delayed = unpack(KEYS, 7)
local handoff, dead, died = KEYS[14], KEYS[15], KEYS[16]
local keys = {
  waiting = waiting,
  leases = leases,
  leased = leased,
  meta = meta,
  calls0 = calls0,
  calls1 = calls1,
  priority = priority,
  special = bound,
  unique = unique,
  unique_due = unique_due,
  groups = groups,
  grouped = grouped,
  delayed = delayed,
  handoff = handoff,
  dead = dead,
  died = died,
}

-- @include integer
integer('arguments', #ARGV, 13, 13)
local write = integer('write', ARGV[5], 0, 1) == 1
local what, where, ref, id, detail = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local other_where, other_ref, proof = ARGV[11], ARGV[12], ARGV[13]
local key = keys[where]
if not key then
  return redis.error_reply('ARGUMENT there is no such part of a queue')
end
if what == 'state' and write then
  local state = redis.call('HGET', meta, 'state')
  if state and (#state == 0 or string.byte(state) <= 2 and (#state < 63 or string.byte(state) == 0)) then
    redis.call('HDEL', meta, 'state') -- no script can begin with it; a new one is made of what there is
  end
end

-- @include open
-- @include begin
-- @include allowed
-- @include text
-- @include wake
-- @include issue
-- @include uses
-- @include special
-- @include rank
-- @include arrive
-- @include delay
-- @include free
-- @include held
-- @include id_of
-- @include bond
-- @include forget
-- @include entomb
-- @include unbind
-- @include counters
-- @include sound
-- @include stamp
-- @include wants
-- @include letter
-- @include inside
-- @include whole

if again then
  return outcomes or 'done'
end
for command in string.gmatch('LREM LSET PERSIST PTTL', '%u+') do
  if not record and not redis.acl_check_cmd(command) then
    return redis.error_reply('NOPERM the user may not run ' .. command)
  end
end
-- Every key is read before one is written.
local back, all = stamp()

-- The message of an id at a place, if it is there. A list's positions count from its tail, so that what is taken
-- meanwhile does not move it; what was pushed since is passed over, as far as 1,000 messages or 4 MiB.
local function at(where, ref, id)
  local place = keys[where]
  local function same(message, token)
    if message and message ~= wake then
      local own = string.sub(message, 1, 4) == '\0PQ\1' and string.sub(message, 5, 20) or token and id_of(token)
      return own == id and message or nil
    end
  end
  if where == 'leased' then
    local value = redis.call('HGET', leased, ref)
    return value and whole(value) and same(held(value), tonumber(ref)) or nil
  elseif where == 'dead' then
    local found = redis.call('HGET', dead, ref)
    return found and (same(letter(found)) or ref == id and letter(found)) or nil
  elseif where ~= 'waiting' and where ~= 'handoff' then
    return redis.call('ZSCORE', place, ref) and same(inside(where, ref)) or nil
  end
  local bytes, from = 0, integer('ref', ref, 0, 2 ^ 53)
  for offset = from, from + 990, 16 do
    local some = redis.call('LRANGE', place, -offset - 16, -offset - 1)
    for i = #some, 1, -1 do
      if same(some[i]) then
        return some[i], offset + #some - i
      end
      bytes = bytes + #some[i]
    end
    if #some < 16 or bytes > 4194304 then
      return nil
    end
  end
end

-- What of a message stays the same, however often it is delivered.
local function body(message)
  return string.sub(message, 1, 4) == '\0PQ\1' and string.sub(message, 26) or '\0\0' .. message
end

-- Removes a lease, and frees what its item has held.
local function loosen()
  if bit.band(wants(), 16) ~= 0 then
    uses(16)
  end
  unbind({ ref })
  forget({ ref })
end

-- What is to be done, when it is so; else an outcome.
local function plan()
  if what == 'state' then
    return function()
      local missing = bit.band(wants(), bit.bnot(flags))
      for feature = 2, 8 do
        if bit.band(missing, 2 ^ feature) ~= 0 then
          uses(2 ^ feature)
        end
      end
      if packed then
        redis.call('HSET', meta, 'schema', '1')
      end
      event, asked, guard_from, guard_at = 0, 0, math.min(guard_from, now), math.min(guard_at, now)
    end
  elseif what == 'tokens' then
    local highest = integer('ref', ref, 0, 2 ^ 53)
    -- One from a distant future is nobody's: tokens must stay below 2^53.
    return last < highest and highest < micros + 86400000000 and function()
      last = highest
    end
  elseif what == 'ttl' then
    return redis.call('PTTL', key) >= 0 and function()
      redis.call('PERSIST', key)
    end
  elseif what == 'field' then
    local value = redis.call('HGET', meta, ref)
    return value and not sound(ref, value) and function()
      redis.call('HDEL', meta, ref)
    end
  elseif what == 'call' then
    local found = redis.call('HGET', key, ref)
    return found and #found < 18 and function()
      redis.call('HDEL', key, ref)
    end
  elseif what == 'markers' then
    -- Those that are behind items are no use. A long list is left as it is: each goes when it comes to the head.
    local length = redis.call('LLEN', key)
    return length > 0
      and length <= 20000
      and function()
        redis.call('LREM', key, 0, wake)
        if redis.call('LLEN', key) == 0 and where == 'waiting' then
          redis.call('RPUSH', key, wake) -- it may be what wakes a worker for what is not in the list
        end
      end
  elseif what == 'lease' then
    return redis.call('ZSCORE', leases, ref)
      and redis.call('HEXISTS', leased, ref) == 0
      and function()
        loosen()
        redis.call('HINCRBY', meta, 'missing', 1)
      end
  elseif what == 'leased' then
    local value = redis.call('HGET', leased, ref)
    local token = string.find(ref, '^[1-9]%d*$') and tonumber(ref)
    local strange = not token or token > 2 ^ 53
    return value
      and (strange or not redis.call('ZSCORE', leases, ref))
      and function()
        local name = strange and text(issue(1)) or ref
        if strange then
          redis.call('HSET', leased, name, value)
        end
        redis.call('ZADD', leases, text(now + 60000), name)
        event, asked = math.min(event, now + 60000), 0
        if strange then
          forget({ ref })
        end
      end
  elseif what == 'special' then
    local value = redis.call('HGET', leased, ref)
    local due = value and whole(value) and bond(held(value)) or nil
    local lost = not value and redis.call('ZSCORE', leases, ref) -- what it holds is freed with the lease
    return not lost
      and (redis.call('HGET', bound, ref) or nil) ~= due
      and function()
        if due then
          redis.call('HSET', bound, ref, due)
          uses(16)
        else
          redis.call('HDEL', bound, ref)
        end
      end
  elseif what == 'damaged' then
    local value
    if where == 'leased' then
      value = redis.call('HGET', leased, ref)
      value = value and not whole(value) and value
    elseif where == 'dead' then
      value = redis.call('HGET', dead, ref)
      value = value and not letter(value) and value
    else
      value = redis.call('ZSCORE', key, ref) and not inside(where, ref) and ref
    end
    return value
      and function()
        if where == 'dead' then
          redis.call('HSET', dead, ref, '\1' .. '\7damaged' .. '\0' .. '\0\0' .. value)
          return
        end
        entomb({ { issue(1), value, '' } }, 'damaged', '')
        if where == 'leased' then
          loosen()
        else
          redis.call('ZREM', key, ref)
        end
      end
  elseif what == 'died' then
    return redis.call('HEXISTS', dead, ref) == 1
      and not redis.call('ZSCORE', died, ref)
      and function()
        redis.call('ZADD', died, text(now), ref)
      end
  elseif what == 'dead' then
    return redis.call('ZSCORE', died, ref)
      and redis.call('HEXISTS', dead, ref) == 0
      and function()
        redis.call('ZREM', died, ref)
      end
  elseif what == 'due' then
    local value, due = redis.call('HGET', unique, ref), redis.call('ZSCORE', unique_due, ref)
    local expiry = value and #value == 22 and struct.unpack('>I6', value, 17)
    local right = expiry and expiry > 0 and text(expiry) or false
    if (not value or expiry) and tonumber(due or 0) == tonumber(right or 0) then
      return nil
    end
    return function()
      if right then
        redis.call('ZADD', unique_due, right, ref)
      else
        redis.call('ZREM', unique_due, ref)
      end
      if value and not expiry then
        redis.call('HDEL', unique, ref)
      end
    end
  elseif what == 'unheld' then
    return redis.call('HEXISTS', unique, detail) == 0
      and at(where, ref, id)
      and function()
        redis.call('HSET', unique, detail, id .. '\0\0\0\0\0\0')
        uses(16)
      end
  elseif what == 'unled' then
    local head = redis.call('HGET', groups, detail)
    -- The head may be one that is gone: then `other_ref` is its id.
    return (head or '') == other_ref
      and at(where, ref, id)
      and (other_ref == '' or proof == text(back) or 'busy')
      and function()
        redis.call('HSET', groups, detail, id)
        uses(128)
        uses(16)
      end
  elseif what == 'headless' or what == 'head' then
    local head = redis.call('HGET', groups, detail)
    local next = redis.call('ZRANGEBYLEX', grouped, '[' .. detail .. '\0', '(' .. detail .. '\1', 'LIMIT', 0, 1)[1]
    if what == 'headless' and (head or not next) or what == 'head' and head ~= id then
      return nil
    end
    return proof ~= text(back) and 'busy'
      or function()
        -- As if its head had just been settled.
        uses(128)
        uses(16)
        if not head then
          redis.call('HSET', groups, detail, id)
        end
        free({ { id, nil, detail } })
      end
  elseif what == 'key' then
    if redis.call('HGET', unique, detail) ~= id .. '\0\0\0\0\0\0' then
      return nil
    end
    return proof ~= text(back) and 'busy' or function()
      redis.call('HDEL', unique, detail)
    end
  elseif what == 'surplus' then
    local copy, offset = at(where, ref, id)
    local kept_from = other_ref
    if offset and where == other_where then
      -- Of two in one list the one that is next is kept; both may be elsewhere by now.
      kept_from = math.max(integer('other_ref', other_ref, 0, 2 ^ 53), offset + 1)
    end
    local kept = at(other_where, kept_from, id)
    if not copy or not kept or where == other_where and ref == other_ref then
      return nil
    end
    if body(copy) ~= body(kept) then
      return 'differs'
    end
    return function()
      if where == 'leased' then
        if bit.band(wants(), 16) ~= 0 then
          uses(16)
        end
        forget({ ref }) -- and what the item holds stays with its other copy
      elseif where == 'dead' then
        redis.call('ZREM', died, ref)
        redis.call('HDEL', dead, ref)
      elseif offset then
        redis.call('LSET', key, -offset - 1, wake) -- so that no other changes its position; see `markers`
      else
        redis.call('ZREM', key, ref)
      end
    end
  elseif what == 'books' then
    -- `ref` is how many items are missing, less those that are too many; `detail` the stamp of everything.
    return all == detail
      and function()
        redis.call('HINCRBY', meta, 'adjusted', text(-integer('ref', ref, -2 ^ 53, 2 ^ 53)))
      end
  end
  return redis.error_reply('ARGUMENT there is nothing to mend by the name of ' .. what)
end

local act = plan() or 'fine'
if type(act) == 'table' then
  return act
end
local outcome = type(act) == 'function' and 'found' or act
if not write then
  return outcome
end
-- @include resolve
if outcome == 'found' then
  act()
  outcome = 'done'
end
unusual = outcome ~= 'done' and outcome or nil
-- @include remember
-- @include save
return outcome
