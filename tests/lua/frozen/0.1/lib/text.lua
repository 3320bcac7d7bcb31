-- A number as text, which redis.call would make of it at several times the cost. tostring() gives 1.8e+15 for a token.
local function text(number)
  return string.format('%d', number)
end
