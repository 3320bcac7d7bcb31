-- Frees what the items of leases that end for good have held. Called before the leases are removed.
local function unbind(tokens)
  if #tokens == 0 or bit.band(flags, 16) == 0 then
    return
  end
  -- @include text
  -- @include special
  -- @include issue
  -- @include wake
  -- @include uses
  -- @include rank
  -- @include arrive
  -- @include delay
  -- @include free
  local gone, seen = {}, {}
  for i, value in ipairs(redis.call('HMGET', bound, unpack(tokens))) do
    if value and not seen[tokens[i]] then
      seen[tokens[i]] = true
      local length = struct.unpack('>H', value, 17)
      local group = string.sub(value, 19 + length)
      local key = length > 0 and string.sub(value, 19, 18 + length)
      gone[#gone + 1] = { string.sub(value, 1, 16), key, group ~= '' and group }
    end
  end
  free(gone)
end
