-- What a lease holds beside its message, so that `complete` need not read it: id, dedupe key, group. Nil for nothing.
local function bond(message)
  local asks = special(message)
  if not asks or not (asks.unique or asks.group) then
    return nil
  end
  local key = asks.unique or ''
  return string.sub(message, 5, 20) .. struct.pack('>H', #key) .. key .. (asks.group or '')
end
