-- What is remembered of the last call of a slot: its number, the first token and the count it leased, and the
-- packed outcomes that are not the default. Errors: STALE, for a copy that arrives after the slot's next call.
local function recall(calls0, calls1, slot, number)
  local record = redis.call('HGET', calls0, slot) or redis.call('HGET', calls1, slot)
  if not record then
    return 0, 0, 0, ''
  end
  local known, first, count, outcomes = struct.unpack('>I8I8I2', record)
  if number < known then
    error({ err = 'STALE a later call of this slot was already answered' })
  end
  return known, first, count, string.sub(record, outcomes)
end
