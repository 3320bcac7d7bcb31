-- Runs where it is included: refuses a user whose ACL lacks a command of the scripts that change something. One of them
-- would stop half-way, and what it has written by then stays. Asked for a slot's first call: it takes 10 µs.
if not record then
  for command in
    string.gmatch(
      'EXISTS HDEL HEXISTS HGET HINCRBY HLEN HMGET HSET LINDEX LLEN LPOP LPUSH LRANGE LTRIM RENAME RPUSH TIME UNLINK '
        .. 'ZADD ZCARD ZCOUNT ZRANGE ZRANGEBYSCORE ZREM ZSCORE',
      '%u+'
    )
  do
    if not redis.acl_check_cmd(command) then
      return redis.error_reply('NOPERM the user may not run ' .. command)
    end
  end
end
