-- What a message from the list is: 'raw', 'envelope', 'suspect', 'marker' or 'malformed'; and whether its headers ask for
-- something (flag 2); and how many bytes of headers were looked through, if any. Never raises.
local function kind(message)
  local zero, p, q, version = string.byte(message, 1, 4) -- half of what a string of them would cost
  if zero ~= 0 or p ~= 80 or q ~= 81 or version ~= 1 then
    return 'raw'
  end
  local flags, _, _, _, _, high, low = string.byte(message, 21, 27)
  if not low then
    return 'malformed'
  end
  local length = 256 * high + low
  if flags >= 128 then
    return message == wake and 'marker' or 'malformed'
  end
  if length > 0 then
    local first = string.byte(message, 28) or 0
    local map = first >= 128 and first <= 143 or first == 222 or first == 223
    -- cmsgpack raises on truncated, deeply nested and odd-keyed input.
    if not map or #message < 27 + length then
      return 'malformed'
    elseif not pcall(cmsgpack.unpack, string.sub(message, 28, 27 + length)) then
      return 'malformed', false, length
    end
  end
  return flags % 2 == 1 and 'suspect' or 'envelope', flags % 4 >= 2, length > 0 and length
end
