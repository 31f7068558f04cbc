-- Verify tasks of one queue that look wrong, and put them right; on a dry run only tell what would be done.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:active  [3] asynq:{q}:lease  [4] asynq:{q}:scheduled  [5] asynq:{q}:retry
-- KEYS[6] asynq:{q}:archived  [7] asynq:{q}:completed  [8] asynq:{q}:groups  [9] asynq:{q}:aggregation_sets
-- KEYS[10] asynqpy:{q}:quarantine
-- ARGV[1] task key prefix  [2] group key prefix  [3] quarantine key prefix  [4] 'heal' or 'dry'
-- ARGV[5] now, unix s  [6] now, unix ns as 19 digits  [7] a lease that ended at or before this has no holder, unix s
-- ARGV[8] most archived tasks to keep
-- then 8 per task: id, '1' if it was seen in pending (else ''), sha1 of a message that does not decode or '',
--   the state that was seen with the next, or ''; the score that the message names for that state in unix s, or '';
--   the group that the message names, or ''; two groups or aggregation sets that had it, as 'g:<name>', or ''
-- Returns per task: problem or '', repair or '', where it was found
-- Nothing is believed but what is found here and now. A task that is active and leased stays with its holder.
local pending, active, lease, archived, groups = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[8]
local aggregation_sets, quarantine = KEYS[9], KEYS[10]
local prefix, group_prefix, quarantine_prefix = ARGV[1], ARGV[2], ARGV[3]
local heals, now, now_ns = ARGV[4] == 'heal', tonumber(ARGV[5]), ARGV[6]
local expired, most_archived = tonumber(ARGV[7]), tonumber(ARGV[8])
local sorted_sets = {scheduled = KEYS[4], retry = KEYS[5], archived = archived, completed = KEYS[7]}

-- Where the state names no place that has the task: what can still run goes before what has ended.
local preference = {'pending', 'active', 'retry', 'scheduled', 'aggregating', 'archived', 'completed'}

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

local function copies(list, id)
  local found = redis.pcall('LPOS', list, id, 'COUNT', 0)
  return found.err and 0 or #found
end

local function score_in(key, id)
  local score = redis.pcall('ZSCORE', key, id)
  return type(score) == 'string' and score
end

-- Names of the aggregation sets of each group; asked for only where a task is not in its group.
local sets_by_group
local function sets_of(group)
  if not sets_by_group then
    sets_by_group = {}
    local sets = redis.pcall('ZRANGE', aggregation_sets, 0, -1)
    for _, set in ipairs(sets) do
      local name = set:sub(#group_prefix + 1)
      local its_group = name:match('^(.*):') or ''
      sets_by_group[its_group] = sets_by_group[its_group] or {}
      table.insert(sets_by_group[its_group], name)
    end
  end
  return sets_by_group[group] or {}
end

-- An aggregation set, `<group>:<uuid>`, before its group: an aggregator may be at work on it.
local function groups_with(id, names)
  local found, seen = {}, {}
  for _, name in ipairs(names) do
    if not seen[name] and score_in(group_prefix .. name, id) then
      found[#found + 1] = name
    end
    seen[name] = true
  end
  table.sort(found, function(a, b) return #a > #b end)
  return found
end

local function read(suspect)
  local id, key = suspect.id, prefix .. suspect.id
  local task = {id = id, key = key, type = redis.call('TYPE', key).ok, places = {}, pending = 0}
  if task.type == 'hash' then
    local fields = redis.call('HMGET', key, 'msg', 'state', 'group', 'pending_since')
    task.msg, task.state = fields[1] ~= '' and fields[1], fields[2] or ''
    task.group, task.since = fields[3], fields[4]
  end
  if task.group then
    table.insert(suspect.names, task.group)
  end
  for name, set in pairs(sorted_sets) do
    if score_in(set, id) then
      task.places[name] = true
    end
  end
  task.groups = groups_with(id, suspect.names)
  if task.state == 'aggregating' and #task.groups == 0 and task.group then
    task.groups = groups_with(id, sets_of(task.group))
  end
  task.places.aggregating = #task.groups > 0 or nil
  task.active = copies(active, id)
  task.places.active = task.active > 0 or nil
  task.lease = score_in(lease, id)
  task.is_alive = task.lease and tonumber(task.lease) > expired
  return task
end

-- Pending may be long, so it is searched only for a task that was seen there or would be at home nowhere else.
local function is_plainly_sound(task, suspect)
  if suspect.listed or not task.msg or suspect.sha ~= '' or not task.places[task.state] then
    return false
  end
  for name in pairs(task.places) do
    if name ~= task.state then
      return false
    end
  end
  return task.active <= 1 and #task.groups <= 1 and (task.active == 1) == (task.lease and true or false)
end

local function places(task)
  local names = {}
  for _, name in ipairs(preference) do
    if task.places[name] then
      names[#names + 1] = name
    end
  end
  return names
end

local function describe(task)
  local words = {}
  for _, name in ipairs(places(task)) do
    local count = name == 'pending' and task.pending or name == 'active' and task.active or #task.groups
    local is_countable = name == 'pending' or name == 'active' or name == 'aggregating'
    words[#words + 1] = (is_countable and count > 1) and (name .. ' x' .. count) or name
  end
  if task.lease then
    words[#words + 1] = 'lease'
  end
  local where = #words > 0 and ('in ' .. table.concat(words, ', ')) or 'in no list'
  return (task.state and task.state ~= '') and ('state ' .. task.state .. ', ' .. where) or where
end

-- The one place a task belongs to, among those that have it; nil when none has.
local function home_of(task)
  if task.lease and (task.active > 0 or (task.state == 'active' and task.is_alive)) then
    return 'active'
  end
  local home = task.places[task.state] and task.state or places(task)[1]
  if home == 'active' then
    -- Without a lease nobody runs it, and nobody would ever take it from there.
    return 'pending'
  end
  return home
end

-- What is wrong with a task that can be read.
local function problem_of(task, home)
  if #places(task) == 0 and not task.lease then
    return 'orphan'
  elseif task.active > 0 and not task.lease then
    return 'no_lease'
  elseif task.lease and task.active == 0 then
    return 'not_active'
  elseif #places(task) > 1 then
    return 'several_places'
  elseif task.pending > 1 or task.active > 1 or #task.groups > 1 then
    return 'listed_twice'
  elseif task.state ~= home then
    return 'wrong_state'
  end
end

local function is_group(name)
  return name and name ~= '' and type(redis.pcall('ZCARD', group_prefix .. name)) == 'number'
end

-- Where a task goes that no list has. One that has ended is kept as long as if it had been listed.
local function shelter_of(task, suspect)
  local state, score = task.state, tonumber(suspect.score)
  if state == 'archived' or state == 'completed' then
    if suspect.state ~= state then
      return 'changed'
    end
    if state == 'completed' then
      return (score and score > now) and 'completed' or 'deleted'
    end
    local size = redis.pcall('ZCARD', archived)
    return (type(size) ~= 'number' or size < most_archived) and 'archived' or 'deleted'
  end
  if state == 'aggregating' and is_group(task.group or suspect.group) then
    return 'aggregating'
  end
  return 'pending'
end

local function leave_groups(task, kept)
  for i = kept + 1, #task.groups do
    local name = task.groups[i]
    redis.call('ZREM', group_prefix .. name, task.id)
    if redis.call('EXISTS', group_prefix .. name) == 0 then
      redis.call('SREM', groups, name)
    end
  end
end

-- Take the id out of every place but one. The first write is one that a full Redis allows.
local function clear(task, home)
  if home ~= 'active' then
    redis.call('ZREM', lease, task.id)
    redis.call('LREM', active, 0, task.id)
  elseif task.active > 1 then
    redis.call('LREM', active, task.active - 1, task.id)
  end
  for name, set in pairs(sorted_sets) do
    if name ~= home and task.places[name] then
      redis.call('ZREM', set, task.id)
    end
  end
  if home ~= 'pending' and task.pending > 0 then
    redis.call('LREM', pending, 0, task.id)
  elseif task.pending > 1 then
    -- From the head: the copy that is next to run stays.
    redis.call('LREM', pending, task.pending - 1, task.id)
  end
  leave_groups(task, home == 'aggregating' and 1 or 0)
end

local function settle_in(task, home, suspect)
  clear(task, home)
  if home == 'pending' and task.pending == 0 then
    redis.call('RPUSH', pending, task.id)
  elseif home == 'active' and task.active == 0 then
    redis.call('LPUSH', active, task.id)
  elseif home == 'aggregating' and #task.groups == 0 then
    local name = task.group or suspect.group
    redis.call('ZADD', group_prefix .. name, now, task.id)
    redis.call('SADD', groups, name)
    redis.call('HSET', task.key, 'group', name)
  elseif sorted_sets[home] and not task.places[home] then
    redis.call('ZADD', sorted_sets[home], tonumber(suspect.score) or now, task.id)
  end
  if task.state ~= home then
    redis.call('HSET', task.key, 'state', home)
  end
  if home == 'pending' and (task.pending == 0 or not task.since) then
    redis.call('HSET', task.key, 'pending_since', now_ns)
  end
end

local function release_lock(task)
  local lock = redis.pcall('HGET', task.key, 'unique_key')
  if type(lock) == 'string' and redis.pcall('GET', lock) == task.id then
    redis.call('DEL', lock)
  end
end

-- A task that was trimmed from its list goes whole, as it should have gone then.
local function delete(task)
  clear(task)
  release_lock(task)
  redis.call('DEL', task.key)
end

-- Whatever was set aside under the same id before stays.
local function free_name(id)
  local name = id
  local n = 1
  while redis.call('EXISTS', quarantine_prefix .. name) == 1 do
    n = n + 1
    name = id .. ':' .. n
  end
  return name
end

local function set_aside(task)
  local name = free_name(task.id)
  clear(task)
  if task.type ~= 'none' then
    release_lock(task)
    redis.call('RENAME', task.key, quarantine_prefix .. name)
  end
  redis.call('ZADD', quarantine, now, name)
end

local function unreadable_as(task, suspect)
  if task.type == 'none' then
    return (#places(task) > 0 or task.lease) and 'no_record'
  elseif task.type ~= 'hash' then
    return 'not_a_hash'
  elseif not task.msg then
    return 'no_message'
  end
  return suspect.sha ~= '' and redis.sha1hex(task.msg) == suspect.sha and 'unreadable'
end

-- Answers the problem and the repair, having made it unless this is a dry run.
local function reconcile(suspect)
  local task = read(suspect)
  if is_plainly_sound(task, suspect) then
    return '', '', ''
  end
  if task.type ~= 'none' or suspect.listed then
    task.pending = copies(pending, task.id)
    task.places.pending = task.pending > 0 or nil
  end
  local where = describe(task)
  local problem = unreadable_as(task, suspect)
  if problem then
    if task.active > 0 and task.is_alive then
      return problem, 'left', where
    end
    if heals then
      set_aside(task)
    end
    return problem, task.type == 'none' and 'removed' or 'set_aside', where
  elseif task.type == 'none' then
    return '', '', ''
  end
  local home = home_of(task)
  problem = problem_of(task, home)
  if not problem then
    return '', '', ''
  end
  home = home or shelter_of(task, suspect)
  if home == 'changed' then
    return '', '', ''
  elseif home == 'deleted' then
    if heals then
      delete(task)
    end
    return problem, 'deleted', where
  end
  local is_there = task.places[home]
  if heals then
    settle_in(task, home, suspect)
  end
  if is_there then
    return problem, problem == 'wrong_state' and 'state_set' or 'kept_in_' .. home, where
  end
  return problem, 'put_in_' .. home, where
end

local function suspects()
  local found = {}
  for i = 9, #ARGV, 8 do
    local suspect = {
      id = ARGV[i], listed = ARGV[i + 1] == '1', sha = ARGV[i + 2],
      state = ARGV[i + 3], score = ARGV[i + 4], group = ARGV[i + 5], names = {},
    }
    for n = i + 6, i + 7 do
      if ARGV[n] ~= '' then
        table.insert(suspect.names, ARGV[n]:sub(3))
      end
    end
    if suspect.group ~= '' then
      table.insert(suspect.names, suspect.group)
    end
    found[#found + 1] = suspect
  end
  return found
end

if heals then
  -- A container of the wrong type fails here, before the first write.
  for _, list in ipairs({pending, active}) do
    redis.call('LLEN', list)
  end
  for _, set in ipairs({lease, KEYS[4], KEYS[5], archived, KEYS[7], quarantine}) do
    redis.call('ZCARD', set)
  end
  redis.call('SCARD', groups)
end
local wanted, names = suspects(), {}
for n, suspect in ipairs(wanted) do
  names[n] = prefix .. suspect.id
end
check_here(names)
local answers = {}
for _, suspect in ipairs(wanted) do
  for _, word in ipairs({reconcile(suspect)}) do
    answers[#answers + 1] = word
  end
end
return answers
