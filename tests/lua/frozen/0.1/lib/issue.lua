-- The first of `count` new tokens. The clock keeps them rising when the keys were deleted or the newest writes lost.
local function issue(count)
  local first = math.max(last + 1, micros)
  last = first + count - 1
  return first
end
