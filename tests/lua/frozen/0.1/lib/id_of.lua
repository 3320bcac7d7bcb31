-- The id of a raw message: a UUIDv7 made of the first token that it was leased with.
local function id_of(token)
  return struct.pack('>I6I2', math.floor(token / 1000), 28672 + token % 1000) .. '\128raw\0\0\0\0'
end
