-- Extend the leases that a dequeue has just given out and whose holder has not read its answer yet: they are known by
-- their stamp alone.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] stamp  [2] [3] first and last expiry that the leases may have, unix s  [4] new expiry, unix s
-- Returns the number of leases that have the new expiry.
local lease = KEYS[1]
local stamp, first, last = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- A score is the expiry plus stamp / 2^21, both exact in a double, which 17 digits write exactly.
local extended = string.format('%.17g', ARGV[4] + stamp / 2097152)

local leases = redis.call('ZRANGEBYSCORE', lease, first, '(' .. string.format('%d', last + 1), 'WITHSCORES')
for i = 1, #leases, 2 do
  if (leases[i + 1] % 1) * 2097152 == stamp then
    -- ZADD alone is refused by a full Redis; after a ZREM it is let through.
    redis.call('ZREM', lease, leases[i])
    redis.call('ZADD', lease, extended, leases[i])
  end
end
return redis.call('ZCOUNT', lease, extended, extended)
