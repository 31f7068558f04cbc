-- Extend the leases that a dequeue has just given out and whose holder has not read its answer yet: they are known by
-- their score alone.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] new lease score (expiry in unix s + the same stamp)  [2] score as given out  [3] score as last extended
-- Returns the number of leases that have the new score.
local lease = KEYS[1]
local extended = ARGV[1]

for _, score in ipairs({ARGV[2], ARGV[3]}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, score, score)) do
    -- ZADD alone is refused by a full Redis; after a ZREM it is let through.
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, extended, id)
  end
end
return redis.call('ZCOUNT', lease, extended, extended)
