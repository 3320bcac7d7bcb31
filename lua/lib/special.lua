-- What the headers of a message ask for: group, unique (timed: for a while), priority, max_attempts, backoff, backoff_max (seconds); nil when
-- its flag 2 says that they ask for nothing. What is of a wrong type or out of range counts as absent. Never raises.
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
  local function name(value)
    local whole = type(value) == 'string' and #value > 0 and #value <= 255
    return whole and not string.find(value, '%z') and value or nil
  end
  local function number(value, least, most)
    return type(value) == 'number' and value >= least and value <= most and value or nil
  end
  local priority = number(headers[':priority'], -1048576, 1048576)
  return {
    group = name(headers[':group']),
    unique = name(headers[':unique']),
    timed = headers[':unique_for'] ~= nil,
    priority = priority and priority ~= 0 and priority % 1 == 0 and priority or nil,
    max_attempts = number(headers[':max_attempts'], 1, 65535),
    backoff = number(headers[':backoff'], 0, 1e10),
    backoff_max = number(headers[':backoff_max'], 0, 1e10),
  }
end
