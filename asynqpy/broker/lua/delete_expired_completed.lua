-- Delete completed tasks of one queue whose retention has ended.
-- KEYS[1] asynq:{q}:completed
-- ARGV[1] task key prefix  [2] now, unix s  [3] most tasks to delete
-- Returns the number of tasks deleted.
local completed = KEYS[1]
local prefix = ARGV[1]

local ids = redis.call('ZRANGEBYSCORE', completed, '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('ZREM', completed, id)
  redis.call('DEL', prefix .. id)
end
return #ids
