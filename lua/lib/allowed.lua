-- Refuses a user whose ACL lacks a command of the scripts that change something: one of them would stop half-way, and
-- what it has written by then stays. Errors: NOPERM, before anything is written.
local function allowed()
  for command in
    string.gmatch(
      'EXISTS HDEL HEXISTS HGET HINCRBY HLEN HMGET HSET LINDEX LLEN LPUSH LRANGE LTRIM RENAME RPUSH TIME UNLINK ZADD '
        .. 'ZCARD ZCOUNT ZRANGE ZRANGEBYSCORE ZREM ZSCORE',
      '%u+'
    )
  do
    if not redis.acl_check_cmd(command) then
      error({ err = 'NOPERM the user may not run ' .. command })
    end
  end
end
