-- Extend the leases that a server still holds on tasks of one queue.
-- KEYS[1] asynq:{q}:lease
-- ARGV 3 per task: id, stamp, new lease score (expiry in unix s + the same stamp)
-- Returns per task: 1 extended, 0 lost.
local lease = KEYS[1]

-- A full Redis refuses ZADD, and lets it through after a ZREM; that may empty the key, which cannot be made again while
-- the slot moves to another node. So Redis is asked first for a key that never exists, and refuses then.
local function extend(id, score)
  if type(redis.pcall('ZADD', lease, score, id)) == 'table' then
    redis.call('EXISTS', lease, lease .. ':')
    redis.call('ZREM', lease, id)
    redis.call('ZADD', lease, score, id)
  end
end

local answers = {}
for i = 1, #ARGV, 3 do
  local id, stamp, extended = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local score = redis.call('ZSCORE', lease, id)
  if score and (score % 1) * 2097152 == tonumber(stamp) then
    extend(id, extended)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
