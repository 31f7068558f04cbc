-- Move tasks of one queue that no worker holds to another state, or delete them.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:scheduled  [3] asynq:{q}:retry  [4] asynq:{q}:archived
-- KEYS[5] asynq:{q}:completed  [6] asynq:{q}:groups
-- ARGV[1] task key prefix  [2] group key prefix
-- ARGV[3] where to: pending, archived, scheduled, kept (where they are) or deleted
-- ARGV[4] '' or the one state from which they may come  [5] '' or the one group
-- ARGV[6] now, unix s  [7] now, unix ns as 19 digits
-- ARGV[8] archived at or before this is dropped, unix s  [9] most archived tasks to keep  [10] most to drop at a time
-- ARGV[11] entries of pending that may be walked past for tasks that are not where they were seen
-- then 5 per task: id; where it was seen in pending, counted from the tail, or ''; when it is to run if it is to be
-- scheduled, unix s, or ''; '' or the message that it must have; '' or the one that it gets
-- Returns per task: 'moved', 'gone', 'changed' (the message), 'unlisted' (in no list), 'later' (too far to walk), or the
-- state that it has and may not be moved from. A task in retry that is scheduled stays there, with the new time.
local pending, archived, groups = KEYS[1], KEYS[4], KEYS[6]
local prefix, group_prefix, target = ARGV[1], ARGV[2], ARGV[3]
local only_state, only_group, now, now_ns = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local cutoff, keep, chunk, walked = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local sorted_sets = {scheduled = KEYS[2], retry = KEYS[3], archived = archived, completed = KEYS[5]}

-- Stands in pending for what is about to be taken out, within one run of this script.
local HOLE = ':taken out:'

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

-- The unique lock that a message names in its field 10: a tag, the length of the key in seven bits a byte, the key.
-- A payload that looks like it does no harm, as only a lock that is held by the task is released.
local lock_prefix = prefix:sub(1, -3) .. 'unique:'
local function locks_of(message)
  local found, from = {}, 1
  while true do
    local at = message:find(lock_prefix, from, true)
    if not at then
      return found
    end
    local low, high, tag = message:byte(at - 1), message:byte(at - 2), message:byte(at - 3)
    if low and low < 128 and high == 82 then
      found[#found + 1] = message:sub(at, at + low - 1)
    elseif low and high and high > 127 and tag == 82 then
      found[#found + 1] = message:sub(at, at + low * 128 + high - 129)
    end
    from = at + 1
  end
end

local function held_locks(id, message)
  local held = {}
  for _, lock in ipairs(locks_of(message)) do
    if redis.pcall('GET', lock) == id then
      held[#held + 1] = lock
    end
  end
  return held
end

local function task_at(i)
  local id = ARGV[i]
  local key = prefix .. id
  local task = {id = id, key = key, at = tonumber(ARGV[i + 1]), score = ARGV[i + 2], message = ARGV[i + 4]}
  local fields = redis.pcall('HMGET', key, 'msg', 'state', 'group')
  task.old, task.state, task.group = fields[1] or '', fields[2] or '', fields[3]
  task.expected = ARGV[i + 3]
  return task
end

-- What is listed without a record goes when its list is emptied.
local function ghost(task)
  local list = sorted_sets[only_state]
  if target ~= 'deleted' then
    return false
  elseif only_state == 'pending' then
    task.state = task.at and redis.call('LINDEX', pending, -1 - task.at) == task.id and 'pending'
  elseif only_state == 'aggregating' then
    task.state = redis.call('ZSCORE', group_prefix .. only_group, task.id) and 'aggregating'
    task.group = only_group
  else
    task.state = list and redis.call('ZSCORE', list, task.id) and only_state
  end
  return task.state
end

local budget = walked

-- Whether it is in pending, and near enough; a task that was not seen there may be anywhere.
local function find_in_pending(task)
  if task.at and redis.call('LINDEX', pending, -1 - task.at) == task.id then
    return 'moved'
  end
  task.at = nil
  if budget < walked and budget < redis.call('LLEN', pending) then
    return 'later'
  end
  budget = budget - redis.call('LLEN', pending)
  return redis.call('LPOS', pending, task.id, 'RANK', -1) and 'moved' or 'unlisted'
end

local function judge(task)
  if task.old == '' and not ghost(task) then
    return redis.call('EXISTS', task.key) == 1 and 'unlisted' or 'gone'
  elseif task.expected ~= '' and task.expected ~= task.old then
    return 'changed'
  elseif task.state == '' then
    return 'unlisted'
  elseif task.state == 'active' or (only_state ~= '' and task.state ~= only_state) then
    return task.state
  elseif target == task.state and target ~= 'scheduled' then
    return task.state
  elseif task.state == 'pending' then
    return find_in_pending(task)
  elseif task.state == 'aggregating' then
    if only_group ~= '' and task.group ~= only_group then
      return 'gone'
    end
    -- Not in its group: an aggregator has it.
    task.container = group_prefix .. (task.group or '')
    return redis.call('ZSCORE', task.container, task.id) and 'moved' or 'aggregating'
  end
  task.container = sorted_sets[task.state]
  return task.container and redis.call('ZSCORE', task.container, task.id) and 'moved' or 'unlisted'
end

-- All that are taken out of pending where they were seen go in one walk, from the end of the list that is nearer.
local function empty_places(moved)
  local holes, nearest, deepest = 0, math.huge, 0
  for _, task in ipairs(moved) do
    if task.state == 'pending' and task.at then
      redis.call('LSET', pending, -1 - task.at, HOLE)
      holes, nearest, deepest = holes + 1, math.min(nearest, task.at), math.max(deepest, task.at)
    end
  end
  if holes > 0 then
    local from_head = redis.call('LLEN', pending) - nearest < deepest
    redis.call('LREM', pending, from_head and holes or -holes, HOLE)
  end
  for _, task in ipairs(moved) do
    if task.state == 'pending' and not task.at then
      redis.call('LREM', pending, -1, task.id)
    elseif task.state ~= 'pending' then
      redis.call('ZREM', task.container, task.id)
    end
    if task.state == 'aggregating' and redis.call('ZCARD', task.container) == 0 then
      redis.call('SREM', groups, task.group)
    end
  end
end

local function put(task)
  if target == 'pending' then
    redis.call('LPUSH', pending, task.id)
    redis.call('HSET', task.key, 'state', 'pending', 'pending_since', now_ns)
  elseif target == 'archived' then
    redis.call('ZADD', archived, now, task.id)
    redis.call('HSET', task.key, 'state', 'archived')
    redis.call('HDEL', task.key, 'pending_since')
  else
    redis.call('ZADD', sorted_sets.scheduled, task.score, task.id)
    redis.call('HSET', task.key, 'state', 'scheduled')
    redis.call('HDEL', task.key, 'pending_since')
  end
  redis.call('HDEL', task.key, 'owner', 'crashes')
end

local function delete_task(task)
  for _, lock in ipairs(task.locks) do
    redis.call('DEL', lock)
  end
  redis.call('DEL', task.key)
end

-- What is trimmed goes whole: entry, hash and lock.
local function drop_archived(ids)
  for _, id in ipairs(ids) do
    local key = prefix .. id
    local message = redis.pcall('HGET', key, 'msg')
    local locks = held_locks(id, type(message) == 'string' and message or '')
    -- As check_here; but what cannot go now goes another time.
    if type(redis.pcall('EXISTS', archived, key, unpack(locks))) == 'number' then
      for _, lock in ipairs(locks) do
        redis.call('DEL', lock)
      end
      redis.call('ZREM', archived, id)
      redis.call('DEL', key)
    end
  end
end

local answers, moved, names = {}, {}, {}
for i = 12, #ARGV, 5 do
  local task = task_at(i)
  local answer = judge(task)
  answers[#answers + 1] = answer
  names[#names + 1] = task.key
  if answer == 'moved' then
    moved[#moved + 1] = task
    names[#names + 1] = task.container
    task.locks = target == 'deleted' and held_locks(task.id, task.old) or {}
    for _, lock in ipairs(task.locks) do
      names[#names + 1] = lock
    end
  end
end
-- What is written below fails here, before the first write, where a key holds the wrong type.
redis.call('LLEN', pending)
redis.call('ZCARD', sorted_sets.scheduled)
redis.call('ZCARD', archived)
redis.call('SCARD', groups)
check_here(names)

-- A full Redis lets a script go on that has begun with a write which frees memory.
redis.call('DEL', KEYS[1] .. ':')
local staying, leaving = {}, {}
for _, task in ipairs(moved) do
  local stays = target == 'kept' or (target == 'scheduled' and (task.state == 'scheduled' or task.state == 'retry'))
  table.insert(stays and staying or leaving, task)
end
empty_places(leaving)
for _, task in ipairs(moved) do
  if task.message ~= '' then
    redis.call('HSET', task.key, 'msg', task.message)
  end
end
for _, task in ipairs(staying) do
  if target == 'scheduled' then
    redis.call('ZADD', task.container, task.score, task.id)
  end
end
for _, task in ipairs(leaving) do
  if target == 'deleted' then
    delete_task(task)
  else
    put(task)
  end
end
if target == 'archived' and #leaving > 0 then
  drop_archived(redis.call('ZRANGEBYSCORE', archived, '-inf', cutoff, 'LIMIT', 0, chunk))
  local excess = math.min(redis.call('ZCARD', archived) - keep, chunk)
  if excess > 0 then
    drop_archived(redis.call('ZRANGE', archived, 0, excess - 1))
  end
end
return answers
