-- Give the tasks of an aggregation set that nobody works on back to their group; on a dry run only tell.
-- KEYS[1] asynq:{q}:aggregation_sets  [2] the set  [3] its group  [4] asynq:{q}:groups
-- ARGV[1] name of the group  [2] a deadline at or before this has passed, unix s  [3] 'heal' or 'dry'  [4] most to move
-- Returns {problem or '', members moved (on a dry run: to move), members left}
local sets, set, group, groups = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, cutoff, heals, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3] == 'heal', tonumber(ARGV[4])

if heals then
  -- A container of the wrong type fails here, before the first write.
  redis.call('ZCARD', sets)
  redis.call('ZCARD', group)
  redis.call('SCARD', groups)
end
local size = redis.call('ZCARD', set)
local deadline = redis.pcall('ZSCORE', sets, set)
deadline = type(deadline) == 'string' and deadline
if size == 0 then
  if deadline and heals then
    redis.call('ZREM', sets, set)
  end
  return {deadline and 'lost_set' or '', 0, 0}
end
if deadline and tonumber(deadline) > cutoff then
  return {'', 0, 0}
end
if not heals then
  return {'stale_set', size, 0}
end
local members = redis.call('ZRANGE', set, 0, limit - 1, 'WITHSCORES')
for i = 1, #members, 2 do
  redis.call('ZREM', set, members[i])
  redis.call('ZADD', group, members[i + 1], members[i])
end
redis.call('SADD', groups, name)
local left = size - #members / 2
if left == 0 then
  redis.call('ZREM', sets, set)
end
return {'stale_set', #members / 2, left}
