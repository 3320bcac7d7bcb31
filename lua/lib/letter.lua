-- The message of a dead letter's record: version, reason, worker, error, each with its length before it. Nil when it is
-- no record.
local function letter(record)
  if string.byte(record) ~= 1 then
    return nil
  end
  local at = 2
  for _ = 1, 2 do
    at = at + 1 + (string.byte(record, at) or #record)
  end
  if at + 1 > #record then
    return nil
  end
  at = at + 2 + struct.unpack('>H', record, at)
  return at <= #record + 1 and string.sub(record, at) or nil
end
