-- The message in a member of `priority`, `delayed` or `grouped`, and its group; nil when it is none.
local function inside(where, member)
  if where ~= 'grouped' then
    return #member >= 8 and string.sub(member, 9) or nil
  end
  local at = string.find(member, '%z')
  if not at or at == 1 or #member < at + 14 then
    return nil
  end
  return string.sub(member, at + 15), string.sub(member, 1, at - 1)
end
