-- The end of every script that changed something: the call is remembered, so that a second copy of it changes nothing,
-- and the state is written. `outcomes` is nil when every outcome is the default.
-- The memory is two hashes: when the younger one is five minutes old it becomes the older one, whose records are
-- dropped whole; so each record lives at least that long.
local function finish(q, first, count, outcomes)
  if q.now - q.rotated > 300000 then
    if redis.call('EXISTS', calls0) == 1 then
      redis.call('UNLINK', calls1) -- RENAME onto it would free it within the script
      redis.call('RENAME', calls0, calls1)
    end
    q.rotated = q.now
  elseif q.rotated > q.now then
    q.rotated = q.now -- the clock went back
  end
  local record = struct.pack('>I8I8I2', q.number, first, count)
  redis.call('HSET', calls0, q.slot, outcomes and record .. cmsgpack.pack(outcomes) or record)
  save(meta, q)
end
