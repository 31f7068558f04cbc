-- Extend the leases that a dequeue has just given out and whose holder has not read its answer yet: they are known by
-- their stamp alone.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] stamp  [2] [3] first and last expiry that the leases may have, unix s  [4] new expiry, unix s
-- Returns the number of leases that have the new expiry.
local lease = KEYS[1]
local fraction = tonumber(ARGV[1]) / 2097152

-- A score is the expiry plus the stamp's fraction, both exact in a double, which 17 digits write exactly.
local function score_of(expiry)
  return string.format('%.17g', expiry + fraction)
end

local extended = score_of(ARGV[4])
for expiry = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local score = score_of(expiry)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, score, score)) do
    -- ZADD alone is refused by a full Redis; after a ZREM it is let through.
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, extended, id)
  end
end
return redis.call('ZCOUNT', lease, extended, extended)
