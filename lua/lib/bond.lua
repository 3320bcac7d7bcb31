-- What a lease holds beside its message, so that `complete` need not read it: id, dedupe key, group. Nil for nothing.
-- A message with a priority that came by RPUSH will go back to its priority: from now on the queue has them.
local function bond(message)
  local asks = special(message)
  if asks and asks.priority then
    uses(4)
  end
  if not asks or not (asks.unique or asks.group) then
    return nil
  end
  local key = asks.unique or ''
  return string.sub(message, 5, 20) .. struct.pack('>H', #key) .. key .. (asks.group or '')
end
