-- A number as text. tostring() turns a token into 1.8e+15.
local function text(number)
  return string.format('%.0f', number)
end
