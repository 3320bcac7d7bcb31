-- Whether a message is an envelope at least in its first bytes: those that options are about must be.
local function enveloped(message)
  return #message >= 27 and string.sub(message, 1, 4) == '\0PQ\1'
end
