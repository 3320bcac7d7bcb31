-- What the headers of a message ask for: group, unique (timed: only for a while), priority, max_attempts, backoff,
-- backoff_max (seconds); nil when its flag 2 says that they ask for nothing. What is of a wrong type or out of range
-- counts as absent. Never raises.
local function special(message)
  if #message < 28 or string.sub(message, 1, 4) ~= '\0PQ\1' or bit.band(string.byte(message, 21), 130) ~= 2 then
    return nil
  end
  local length = struct.unpack('>H', message, 26)
  if #message < 27 + length then
    return nil -- malformed: it dies when it is to be leased, and must hold nothing then
  end
  local fine, headers = pcall(cmsgpack.unpack, string.sub(message, 28, 27 + length))
  if not fine or type(headers) ~= 'table' then
    return nil
  end
  local asks = { timed = headers[':unique_for'] ~= nil }
  for name, value in pairs(headers) do
    if name == ':group' or name == ':unique' then
      if type(value) == 'string' and #value > 0 and #value <= 255 and not string.find(value, '%z') then
        asks[string.sub(name, 2)] = value
      end
    elseif name == ':priority' and type(value) == 'number' then
      local whole = value >= -1048576 and value <= 1048576 and value ~= 0 and value % 1 == 0
      asks.priority = whole and value or nil
    elseif name == ':max_attempts' and type(value) == 'number' then
      asks.max_attempts = value >= 1 and value <= 65535 and value or nil
    elseif name == ':backoff' and type(value) == 'number' then
      asks.backoff = value >= 0 and value <= 1e10 and value or nil
    elseif name == ':backoff_max' and type(value) == 'number' then
      asks.backoff_max = value >= 0 and value <= 1e10 and value or nil
    end
  end
  return asks
end
