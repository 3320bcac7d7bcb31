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
  local wants, owners, leaders = {}, {}, {}
  for i, entry in ipairs(entries) do
    wants[i] = special(entry[1])
    if entry[4] then
      owners[#owners + 1] = '\0id' .. string.sub(entry[1], 5, 20)
    end
    if wants[i] then
      owners[#owners + 1], leaders[#leaders + 1] = wants[i].unique, wants[i].group
    end
  end
  -- What is known of keys and groups, asked for at once: a command for each would take several times as long.
  local function look(hash, names)
    local known = {}
    for i = 1, #names, 1000 do
      local j = math.min(i + 999, #names)
      for k, value in ipairs(redis.call('HMGET', hash, unpack(names, i, j))) do
        known[names[i + k - 1]] = value
      end
    end
    return known
  end
  local known, headed = look(unique, owners), look(groups, leaders)
  local function owner(key, except, timed)
    if not known[key] then
      return false
    end
    local id, expiry = string.sub(known[key], 1, 16), struct.unpack('>I6', known[key], 17)
    return (expiry == 0 or expiry > now) and not (id == except and (expiry > 0) == timed) and id
  end
  local function write(command, key, values)
    for i = 1, #values, 1000 do
      redis.call(command, key, unpack(values, i, math.min(i + 999, #values)))
    end
  end
  for position, entry in ipairs(entries) do
    local message, due, window, chosen, except, timed = unpack(entry, 1, 6)
    local asks, id = wants[position], string.sub(message, 5, 20)
    local key, own = asks and asks.unique, chosen and '\0id' .. id
    local other = own and owner(own) or key and owner(key, except, timed)
    if other then
      taken[#taken + 1] = position - 1
      taken[#taken + 1] = other
    else
      if own then
        known[own] = id .. struct.pack('>I6', now + 3600000)
        keys[#keys + 1] = own
      end
      if key then
        local expiry = window > 0 and now + window or 0
        known[key] = id .. struct.pack('>I6', expiry)
        keys[#keys + 1] = key
      end
      if asks and asks.priority then
        uses(4) -- a worker that makes it leasable later must know of priorities
      end
      local group = asks and asks.group
      if group and headed[group] then
        queued[#queued + 1] = { group, message, due > now and due or 0 }
      else
        if group then
          headed[group], heads[#heads + 1] = id, group
          heads[#heads + 1] = id
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
  local members, marks, times, timeless = {}, {}, {}, {}
  for _, entry in ipairs(queued) do
    members[#members + 1] = 0
    members[#members + 1] = entry[1] .. '\0' .. struct.pack('>I8I6', issue(1), entry[3]) .. entry[2]
  end
  write('ZADD', grouped, members)
  if #heads > 0 then
    write('HSET', groups, heads)
    uses(128)
    uses(16)
  end
  for _, key in ipairs(keys) do
    local expiry = struct.unpack('>I6', known[key], 17)
    marks[#marks + 1] = key
    marks[#marks + 1] = known[key]
    if expiry > 0 then
      times[#times + 1] = text(expiry)
      times[#times + 1] = key
    else
      timeless[#timeless + 1] = key
    end
  end
  if #keys > 0 then
    write('HSET', unique, marks)
    write('ZADD', unique_due, times)
    write('ZREM', unique_due, timeless)
    uses(16)
  end
  return taken
end
