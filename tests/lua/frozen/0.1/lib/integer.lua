-- An argument that must be an integer in a range. Errors: ARGUMENT, before anything is written.
local function integer(name, given, least, most)
  local number = tonumber(given)
  if not number or number < least or number > most or number % 1 ~= 0 then
    error({ err = 'ARGUMENT ' .. name .. ' is not an integer from ' .. least .. ' to ' .. string.format('%.0f', most) })
  end
  return number
end
