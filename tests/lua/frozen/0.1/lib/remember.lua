-- Runs where it is included: remembers the call, so that a second copy of it changes nothing: its number, the leases
-- it made (`new_first`, `new_count`), and its outcomes unless all are the default (`unusual`).
-- The memory is two hashes: when the younger one is five minutes old it becomes the older one, whose records are
-- dropped whole; so each record lives at least that long.
if now - rotated > 300000 then
  if redis.call('EXISTS', calls0) == 1 then
    redis.call('UNLINK', calls1) -- RENAME onto it would free it within the script
    redis.call('RENAME', calls0, calls1)
  end
  rotated = now
elseif rotated > now then
  rotated = now -- the clock went back
end
do
  local new = struct.pack('>I8I8I2', number, new_first, new_count)
  redis.call('HSET', calls0, ARGV[2], unusual and new .. cmsgpack.pack(unusual) or new)
end
