-- Runs where it is included: takes in the follow-ups, ARGV[from] and on, four arguments each: the queue's number (0:
-- this one), delay, window, message. Neither a seal nor a cap refuses them: what is begun is brought to its end.
-- The dedupe key of the item that ends (`ended` is its id) is free for them.
-- First everything that can refuse them is looked at, then all are written: and they are written before the item that
-- they follow is removed.
for pass = 1, 2 do
  for target = 0, others do
    local entries = {}
    for i = from, #ARGV, 4 do
      if not enveloped(ARGV[i + 3]) then
        return redis.error_reply('ARGUMENT a message is no envelope')
      end
      if integer('queue', ARGV[i], 0, others) == target then
        entries[#entries + 1] = {
          ARGV[i + 3],
          now + integer('delay', ARGV[i + 1], 0, 1e13),
          integer('window', ARGV[i + 2], 0, 1e13),
          false,
          target == 0 and ended or nil,
          false,
        }
      end
    end
    if target == 0 then
      if pass == 2 and #entries > 0 then
        -- @include follow_place
      end
    else
      local at = own_keys + (target - 1) * 8
      local waiting, meta, delayed, priority = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[at + 4]
      local unique, unique_due, groups, grouped = KEYS[at + 5], KEYS[at + 6], KEYS[at + 7], KEYS[at + 8]
      -- @include open
      if pass == 1 then
        redis.call('LLEN', waiting)
        redis.call('ZCARD', delayed)
        redis.call('ZCARD', priority)
        redis.call('HLEN', unique)
        redis.call('ZCARD', unique_due)
        redis.call('HLEN', groups)
        redis.call('ZCARD', grouped)
      else
        -- @include follow_place
        -- @include save
      end
    end
  end
end
