-- Extend the leases that a server still holds on tasks of one queue.
-- KEYS[1] asynq:{q}:lease
-- ARGV 3 per task: id, stamp, new lease score (expiry in unix s + the same stamp)
-- Returns per task: 1 extended, 0 lost.
local lease = KEYS[1]

local answers = {}
for i = 1, #ARGV, 3 do
  local id, stamp, extended = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local score = redis.call('ZSCORE', lease, id)
  if score and (score % 1) * 2097152 == tonumber(stamp) then
    -- ZADD alone is refused by a full Redis, and every lease would lapse; after a ZREM it is let through.
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, extended, id)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
