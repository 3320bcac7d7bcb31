-- Whether a value of `leased` is one: the length of the worker's name, the name, the message.
local function whole(value)
  return #value > string.byte(value .. '\255')
end
