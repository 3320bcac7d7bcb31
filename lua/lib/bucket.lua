-- Runs where it is included, in `lease` on a queue with a rate: writes back when the next would come (`allowance`).
do
  local whole = math.floor(ahead)
  local arrival = struct.pack('>I8I4I2', micros + whole, math.floor((ahead - whole) * 4294967296), told)
  redis.call('HSET', meta, 'bucket', arrival)
end
