-- Remove a queue that is empty: its lists and counters, and that it is paused.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:active  [3] asynq:{q}:lease  [4] asynq:{q}:scheduled  [5] asynq:{q}:retry
-- KEYS[6] asynq:{q}:archived  [7] asynq:{q}:completed  [8] asynq:{q}:groups  [9] asynq:{q}:aggregation_sets
-- KEYS[10] asynq:{q}:paused  [11] asynq:{q}:processed  [12] asynq:{q}:failed  [13] asynqpy:{q}:reconciler
-- ARGV none
-- Returns 1, or 0 when it holds something.
redis.call('EXISTS', KEYS[1] .. ':', unpack(KEYS))
-- A key without entries does not exist.
if redis.call('EXISTS', unpack(KEYS, 1, 9)) > 0 then
  return 0
end
redis.call('DEL', unpack(KEYS, 10, 13))
return 1
