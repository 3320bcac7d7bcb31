-- The message of a value of `leased`, as it is when its lease ends without being completed: one more delivery, `charged`
-- more attempts, and flagged as a suspect when the lease ran out. A raw message becomes an envelope, so that it keeps
-- its id. Returns the message, its attempts, the worker. (It is not cut out of the value first: Lua looks through every
-- byte of each string that it makes.)
local function returned(value, token, charged, suspect)
  local at = string.byte(value) + 2
  local worker = string.sub(value, 2, at - 1)
  if string.sub(value, at, at + 3) ~= '\0PQ\1' then
    local envelope = '\0PQ\1' .. id_of(token) .. struct.pack('>BHHH', suspect, 1, charged, 0)
    return envelope .. string.sub(value, at), charged, worker
  end
  local flags, deliveries, attempts = struct.unpack('>BHH', value, at + 20)
  attempts = math.min(attempts + charged, 65535)
  local counts = struct.pack('>BHH', bit.bor(flags, suspect), math.min(deliveries + 1, 65535), attempts)
  return string.sub(value, at, at + 19) .. counts .. string.sub(value, at + 25), attempts, worker
end
