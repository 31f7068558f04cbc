-- Extend the leases that a dequeue has just given out and whose holder has not read its answer yet: they are known by
-- their stamp alone.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] stamp  [2] [3] first and last expiry that the leases may have, unix s  [4] new expiry, unix s
-- Returns the number of leases that have the new expiry.
local lease = KEYS[1]
local stamp, first, last = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- A full Redis refuses ZADD, and lets it through after a ZREM; that may empty the key, which cannot be made again while
-- the slot moves to another node. So Redis is asked first for a key that never exists, and refuses then.
local function extend(id, score)
  if type(redis.pcall('ZADD', lease, score, id)) == 'table' then
    redis.call('EXISTS', lease, lease .. ':')
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, score, id)
  end
end

-- A score is the expiry plus stamp / 2^21, both exact in a double, which 17 digits write exactly.
local extended = string.format('%.17g', ARGV[4] + stamp / 2097152)

local leases = redis.call('ZRANGEBYSCORE', lease, first, '(' .. string.format('%d', last + 1), 'WITHSCORES')
for i = 1, #leases, 2 do
  if (leases[i + 1] % 1) * 2097152 == stamp then
    extend(leases[i], extended)
  end
end
return redis.call('ZCOUNT', lease, extended, extended)
