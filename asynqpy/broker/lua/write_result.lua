-- Store the result of a running task. A late write must not bring a finished task's hash back.
-- KEYS[1] asynq:{q}:t:<id>  [2] asynq:{q}:lease
-- ARGV[1] id  [2] stamp  [3] result
-- Returns 1 stored, 0 the lease is lost.
local task, lease = KEYS[1], KEYS[2]

local score = redis.call('ZSCORE', lease, ARGV[1])
if not score or (score % 1) * 2097152 ~= tonumber(ARGV[2]) then
  return 0
end
if redis.call('HGET', task, 'state') ~= 'active' then
  return 0
end
redis.call('HSET', task, 'result', ARGV[3])
return 1
