-- Extend the leases that a dequeue has just given out and whose holder has not read its answer yet: they are known by
-- their score alone.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] new lease score (expiry in unix s + the same stamp)
-- then the scores they may have: as given out, and as last extended
-- Returns the number of leases extended.
local lease = KEYS[1]
local extended = ARGV[1]

local count = 0
for i = 2, #ARGV do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, ARGV[i], ARGV[i])) do
    -- ZADD alone is refused by a full Redis; after a ZREM it is let through.
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, extended, id)
    count = count + 1
  end
end
return count
