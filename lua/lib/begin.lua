-- The beginning of every script that changes something: state, time, and what is remembered of the slot's last call.
-- In the state it returns, `again` says that this is a copy of that call: then the script only repeats its answer, from
-- `outcomes` (those that are not the default, packed), and for leases from `first` and `count`. `unseen` says that the
-- remembered call leased something and that its reply was never seen.
local function begin()
  local number, ack = integer('number', ARGV[3], 1, 2 ^ 53), integer('ack', ARGV[4], 0, 2 ^ 53)
  local q = open(meta, ARGV[1])
  local record = redis.call('HGET', calls0, ARGV[2]) or redis.call('HGET', calls1, ARGV[2])
  q.slot, q.number = ARGV[2], number
  if record then
    local known, first, count, outcomes = struct.unpack('>I8I8I2', record)
    if number < known then
      error({ err = 'STALE a later call of this slot was already answered' })
    end
    q.again, q.unseen = number == known, known > ack and count > 0
    q.first, q.count = first, count
    q.outcomes = #record >= outcomes and cmsgpack.unpack(string.sub(record, outcomes)) or nil
  else
    allowed() -- once for each slot: it takes 10 µs
  end
  return q
end
