-- Whether a field of `meta` can have this value: a script that meets another would stop half-way.
local function sound(name, value)
  local number = tonumber(value)
  if name == 'bucket' then
    return #value == 14
  elseif name == 'rate' then
    return number and number >= 1e-6 and number <= 1e6
  end
  local least = (name == 'max_attempts' or name == 'ttl' or name == 'max_lease' or name == 'burst') and 1 or 0
  if name == 'adjusted' then
    least = -2 ^ 53
  end
  return number and number >= least and number <= 2 ^ 53 and string.find(value, '^-?%d+$')
end
