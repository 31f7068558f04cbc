-- Move tasks of one queue whose time has come from `scheduled` or `retry` to `pending`, or back to their group.
-- KEYS[1] asynq:{q}:scheduled or asynq:{q}:retry  [2] asynq:{q}:pending  [3] asynq:{q}:groups
-- ARGV[1] task key prefix  [2] group key prefix  [3] now, unix s  [4] now, unix ns as 19 digits  [5] most tasks to move
-- Returns {tasks moved, due time of the next one in unix s or '', {id, exact score, …}}
-- The last are due but have no message: they are left in place for the caller to set aside.
local source, pending, groups = KEYS[1], KEYS[2], KEYS[3]
local prefix, group_prefix, now, now_ns, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

redis.call('LLEN', pending)
redis.call('SCARD', groups)
local due = redis.call('ZRANGEBYSCORE', source, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
local names = {}
for i = 1, #due, 2 do
  names[#names + 1] = prefix .. due[i]
end
check_here(names)
local records, its_groups = {}, {}
for n, key in ipairs(names) do
  records[n] = redis.pcall('HMGET', key, 'msg', 'group')
  local group = records[n][2]
  its_groups[#its_groups + 1] = group and group ~= '' and group_prefix .. group or nil
end
check_here(its_groups)
local moved, unreadable = 0, {}
for n, key in ipairs(names) do
  local i = 2 * n - 1
  local id, record = due[i], records[n]
  if record.err or not record[1] then
    unreadable[#unreadable + 1] = id
    unreadable[#unreadable + 1] = due[i + 1]
  else
    local group = record[2]
    local is_grouped = group and group ~= '' and type(redis.pcall('ZCARD', group_prefix .. group)) == 'number'
    redis.call('ZREM', source, id)
    if is_grouped then
      -- Without the group's name in `groups` no aggregator would ever look for its members.
      redis.call('ZADD', group_prefix .. group, now, id)
      redis.call('SADD', groups, group)
      redis.call('HSET', key, 'state', 'aggregating')
    else
      redis.call('LPUSH', pending, id)
      redis.call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
    end
    moved = moved + 1
  end
end
local first = redis.call('ZRANGE', source, #unreadable / 2, #unreadable / 2, 'WITHSCORES')
return {moved, first[2] or '', unreadable}
