-- A message as it is when its lease ends without being completed: one more delivery, `charged` more attempts, and
-- flagged as a suspect when the lease ran out. A raw message becomes an envelope, so that it keeps its id.
-- Returns the message and its attempts.
local function returned(message, token, charged, suspect)
  if string.sub(message, 1, 4) ~= '\0PQ\1' then
    return '\0PQ\1' .. id_of(token) .. struct.pack('>BHHH', suspect, 1, charged, 0) .. message, charged
  end
  local flags, deliveries, attempts = struct.unpack('>BHH', message, 21)
  attempts = math.min(attempts + charged, 65535)
  return string.sub(message, 1, 20) .. struct.pack(
    '>BHH',
    bit.bor(flags, suspect),
    math.min(deliveries + 1, 65535),
    attempts
  ) .. string.sub(message, 26),
    attempts
end
