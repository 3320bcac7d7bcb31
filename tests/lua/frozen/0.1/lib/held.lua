-- A value of `leased` taken apart: the message, the worker.
local function held(value)
  local length = string.byte(value)
  return string.sub(value, length + 2), string.sub(value, 2, length + 1)
end
