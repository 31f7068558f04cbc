-- Publish a server and the tasks it runs now, until the next heartbeat is overdue.
-- KEYS[1] asynq:servers:{<host>:<pid>:<server id>}  [2] asynq:workers:{<host>:<pid>:<server id>}
-- ARGV[1] time to live, whole s  [2] ServerInfo
-- then 2 per running task: id, WorkerInfo
-- Returns 1.
local server, workers = KEYS[1], KEYS[2]
local ttl = ARGV[1]

-- First the one that a full Redis accepts; it lets the rest through, so presence holds.
redis.call('DEL', workers)
redis.call('SETEX', server, ttl, ARGV[2])
for i = 3, #ARGV, 2 do
  redis.call('HSET', workers, ARGV[i], ARGV[i + 1])
end
if #ARGV > 2 then
  redis.call('EXPIRE', workers, ttl)
end
return 1
