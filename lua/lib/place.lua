-- Takes in new messages, each {message, due, window, chosen, except, timed}: for at the earliest `due`, at the end of
-- its group or where it can be leased. A dedupe key holds for `window` ms, 0: until its item is settled; an id that its
-- maker has chosen, for an hour. A key that the item `except` has is free: for a time if `timed`, else until settled.
-- Returns position, id, … of those whose key or id is taken already, and by whom: they are not taken in.
-- The messages are written before what speaks of them: a key that is taken by nobody would refuse them for ever.
local function place(entries)
  -- @include sweep
  -- As many keys as this can add: else they would grow without bound.
  for _ = 1, grouped and #entries or 0, 500 do
    sweep(1000)
  end
  local taken, ready, later, queued, keys, heads = {}, {}, {}, {}, {}, {}
  local known, headed = {}, {}
  local function owner(key, except, timed)
    if not known[key] then
      local found = redis.call('HGET', unique, key) or string.rep('\0', 21) .. '\1'
      known[key] = { string.sub(found, 1, 16), (struct.unpack('>I6', found, 17)) }
    end
    local id, expiry = unpack(known[key])
    return (expiry == 0 or expiry > now) and not (id == except and (expiry > 0) == timed) and id
  end
  for position, entry in ipairs(entries) do
    local message, due, window, chosen, except, timed = unpack(entry, 1, 6)
    local asks, id = special(message), string.sub(message, 5, 20)
    local key, own = asks and asks.unique, chosen and '\0id' .. id
    local other = own and owner(own) or key and owner(key, except, timed)
    if other then
      taken[#taken + 1] = position - 1
      taken[#taken + 1] = other
    else
      if own then
        known[own], keys[#keys + 1] = { id, now + 3600000 }, { own, id, now + 3600000 }
      end
      if key then
        local expiry = window > 0 and now + window or 0
        known[key], keys[#keys + 1] = { id, expiry }, { key, id, expiry }
      end
      if asks and asks.priority then
        uses(4) -- a worker that makes it leasable later must know of priorities
      end
      local group = asks and asks.group
      if group and (headed[group] or redis.call('HEXISTS', groups, group) == 1) then
        queued[#queued + 1] = { group, message, due > now and due or 0 }
      else
        if group then
          headed[group], heads[#heads + 1] = true, { group, id }
        end
        if due > now then
          later[#later + 1] = { message, due - now }
        else
          ready[#ready + 1] = message
        end
      end
    end
  end
  arrive(ready)
  for _, entry in ipairs(later) do
    delay(entry[1], entry[2])
  end
  for _, entry in ipairs(queued) do
    local place = struct.pack('>I8I6', issue(1), entry[3])
    redis.call('ZADD', grouped, 0, entry[1] .. '\0' .. place .. entry[2])
  end
  for _, entry in ipairs(heads) do
    redis.call('HSET', groups, entry[1], entry[2])
    uses(128)
    uses(16)
  end
  for _, entry in ipairs(keys) do
    redis.call('HSET', unique, entry[1], entry[2] .. struct.pack('>I6', entry[3]))
    if entry[3] > 0 then
      redis.call('ZADD', unique_due, text(entry[3]), entry[1])
    else
      redis.call('ZREM', unique_due, entry[1])
    end
    uses(16)
  end
  return taken
end
