-- Writes dead letters, each {token, message, worker}, at most 1,000. A second message of the same id (a copy that somebody
-- pushed by hand) gets an id of its own, made of the token, instead of overwriting the first.
local function entomb(letters, reason, problem)
  if #letters == 0 then
    return
  end
  local before, between = '\1' .. struct.pack('>B', #reason) .. reason, struct.pack('>H', #problem) .. problem
  local records, times, seen = {}, {}, {}
  for i, letter in ipairs(letters) do
    local token, message, worker = letter[1], letter[2], letter[3]
    local id = string.sub(message, 5, 20)
    if #id < 16 or seen[id] or redis.call('HEXISTS', dead, id) == 1 then
      id = id_of(token)
    end
    seen[id] = true
    records[2 * i - 1], records[2 * i] = id, before .. struct.pack('>B', #worker) .. worker .. between .. message
    times[2 * i - 1], times[2 * i] = text(now), id
  end
  redis.call('HSET', dead, unpack(records))
  redis.call('ZADD', died, unpack(times))
  redis.call('HINCRBY', meta, 'dead', #letters)
end
