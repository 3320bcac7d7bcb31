-- Writes a dead letter. A second message of the same id (a copy that somebody pushed by hand) gets an id of its own,
-- made of the token, instead of overwriting the first.
local function entomb(token, message, worker, reason, problem)
  local id = string.sub(message, 5, 20)
  if #id < 16 or redis.call('HEXISTS', dead, id) == 1 then
    id = id_of(token)
  end
  local record = '\1'
    .. struct.pack('>B', #reason)
    .. reason
    .. struct.pack('>B', #worker)
    .. worker
    .. struct.pack('>H', #problem)
    .. problem
    .. message
  redis.call('HSET', dead, id, record)
  redis.call('ZADD', died, text(now), id)
  redis.call('HINCRBY', meta, 'dead', 1)
end
