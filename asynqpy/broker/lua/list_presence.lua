-- Enter the presence key of a server into the list of all.
-- KEYS[1] asynq:servers or asynq:workers
-- ARGV[1] when the presence ends, unix s  [2] presence key
-- Returns 1.
-- ZADD alone is refused by a full Redis; after a ZREM it is let through.
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return 1
