-- Runs where it is included: what is remembered of the slot's last call, as locals. Every script that changes something
-- has it.
-- `again`: this is a copy of that call. Then the script only repeats its answer, from `outcomes` (those that are not
-- the default), and for leases from `known_first` and `known_count`.
-- `unseen`: that call leased something, and its reply was never seen.
local number, ack = tonumber(ARGV[3]), tonumber(ARGV[4])
if not (number and number >= 1 and number <= 2 ^ 53 and number % 1 == 0) then
  return redis.error_reply('ARGUMENT number is not an integer from 1 to 2^53')
end
if not (ack and ack >= 0 and ack <= 2 ^ 53 and ack % 1 == 0) then
  return redis.error_reply('ARGUMENT ack is not an integer from 0 to 2^53')
end
local again, unseen, known_first, known_count, outcomes = false, false, 0, 0, nil
-- What `remember` will write.
local new_first, new_count, unusual = 0, 0, nil
if now - rotated > 300000 then
  redis.call('HLEN', calls1) -- `remember` will drop it: it must be ours
end
local record = redis.call('HGET', calls0, ARGV[2]) or redis.call('HGET', calls1, ARGV[2])
if record then
  local known
  known, known_first, known_count = struct.unpack('>I8I8I2', record)
  if number < known then
    return redis.error_reply('STALE a later call of this slot was already answered')
  end
  again, unseen = number == known, known > ack and known_count > 0
  outcomes = #record > 18 and cmsgpack.unpack(string.sub(record, 19)) or nil
end
