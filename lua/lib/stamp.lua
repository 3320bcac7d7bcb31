-- Two stamps of a queue. While the first is the same no item went back to where it had come from: then who looks through
-- all places, in the order in which items move, has seen each. While the second is the same nothing moved at all.
local function stamp()
  local values = redis.call('HMGET', meta, unpack(counters))
  local back = 0
  for i, value in ipairs(values) do
    values[i] = sound(counters[i], value or '0') and tonumber(value or 0) or 0
    back = i <= 5 and back + values[i] or back
  end
  local lengths = { redis.call('LLEN', waiting), redis.call('LLEN', handoff) }
  for _, key in ipairs({ priority, delayed, grouped, leases, unique_due, died }) do
    lengths[#lengths + 1] = redis.call('ZCARD', key)
  end
  for _, key in ipairs({ leased, bound, unique, groups, dead }) do
    lengths[#lengths + 1] = redis.call('HLEN', key)
  end
  local all = { pushed, completed, raw, last }
  return back, table.concat(all, ' ') .. ' ' .. table.concat(values, ' ') .. ' ' .. table.concat(lengths, ' '), values
end
