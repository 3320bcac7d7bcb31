-- Runs where it is included, in `push` on a queue with caps: refuses messages that are too large or too many.
do
  local caps = redis.call('HMGET', meta, 'max_waiting', 'max_bytes')
  if caps[2] then
    for i = 6, #ARGV do
      local length = #ARGV[i] - 27
      if length > 0 and string.sub(ARGV[i], 1, 4) == '\0PQ\1' then
        length = length - struct.unpack('>H', ARGV[i], 26)
      end
      if length > tonumber(caps[2]) then
        return redis.error_reply('TOOLARGE a payload is ' .. length .. ' bytes, the queue takes at most ' .. caps[2])
      end
    end
  end
  if caps[1] then
    -- @include wake
    -- @include markers
    local there = redis.call('LLEN', waiting) - markers(waiting) + redis.call('ZCARD', delayed)
    there = there + redis.call('ZCARD', priority) + redis.call('ZCARD', grouped)
    if there + #ARGV - 5 > tonumber(caps[1]) then
      return redis.error_reply('FULL ' .. there .. ' messages wait, and the queue takes at most ' .. caps[1])
    end
  end
end
