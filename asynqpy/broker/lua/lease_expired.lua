-- List tasks of one queue whose lease ran out, longest ago first. Changes nothing.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] task key prefix  [2] expired at or before this, unix s  [3] most tasks to list
-- Returns {id, exact lease score, message or '' when there is none, …}
local lease = KEYS[1]
local prefix = ARGV[1]

local expired = redis.call('ZRANGEBYSCORE', lease, '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local tasks = {}
for i = 1, #expired, 2 do
  local message = redis.pcall('HGET', prefix .. expired[i], 'msg')
  tasks[#tasks + 1] = expired[i]
  tasks[#tasks + 1] = expired[i + 1]
  tasks[#tasks + 1] = type(message) == 'string' and message or ''
end
return tasks
