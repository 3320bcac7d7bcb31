-- The first of `count` new tokens. The clock keeps them rising when the keys were deleted or the newest writes lost.
local function issue(q, count)
  local first = math.max(q.last + 1, q.micros)
  q.last = first + count - 1
  return first
end
