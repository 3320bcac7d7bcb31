-- Remembers a call, so that a second copy of it changes nothing. The memory is two hashes: when the younger one is
-- five minutes old it becomes the older one, whose records are dropped whole; so each lives at least that long.
local function remember(calls0, calls1, q, slot, number, first, count, outcomes)
  if q.now - q.rotated > 300000 then
    if redis.call('EXISTS', calls0) == 1 then
      redis.call('UNLINK', calls1) -- RENAME onto it would free it within the script
      redis.call('RENAME', calls0, calls1)
    end
    q.rotated = q.now
  elseif q.rotated > q.now then
    q.rotated = q.now -- the clock went back
  end
  redis.call('HSET', calls0, slot, struct.pack('>I8I8I2', number, first, count) .. outcomes)
end
