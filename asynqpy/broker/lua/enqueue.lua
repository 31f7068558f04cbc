-- Store new tasks of one queue: in `pending` to run now, in `scheduled` to run later, or in a group to be aggregated.
-- KEYS[1] the container: asynq:{q}:pending, asynq:{q}:scheduled or asynq:{q}:g:<group>
-- KEYS[2] asynq:{q}:groups
-- ARGV[1] task key prefix
-- ARGV[2] state: pending, scheduled or aggregating
-- ARGV[3] now, unix ns as 19 digits (a number computed here would lose digits)
-- ARGV[4] group name, or ''; a scheduled task joins it when it is due
-- ARGV[5] how many words each task has: 2, when none of the batch has any of the others, or 6
-- then 6 or 2 per task: id, message; token, lock key or '', lock ttl in s, score in unix s (unused for pending)
-- The token tells a repeated call from a conflict: it is stored with the task. '' means the id was made for this call,
-- so whatever is stored under it is the earlier run of this very call.
-- Returns per task: 1 stored, 0 the id is taken, -1 another task holds the lock
local container, groups = KEYS[1], KEYS[2]
local prefix, state, now_ns, group, words = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

-- Reading a container of the wrong type fails here, before the first write.
redis.call(state == 'pending' and 'LLEN' or 'ZCARD', container)
local has_groups = redis.call('SCARD', groups) > 0 and 1 or 0

local taken, held, repeated = {}, {}, {}

local function is_own_earlier_run(key, token)
  return not taken[key] and (token == '' or redis.pcall('HGET', key, 'enqueue_token') == token)
end

-- A lock was leaked (Go leaks some) where its task is gone, or knows nothing of it: the message of a task that took a
-- lock names it. Such a lock is taken over, as is one of the wrong type, which is none.
local function is_locked(lock)
  local holder = held[lock] or redis.pcall('GET', lock)
  if type(holder) ~= 'string' then
    return false
  end
  local message = redis.pcall('HGET', prefix .. holder, 'msg')
  return taken[prefix .. holder] or (type(message) == 'string' and string.find(message, lock, 1, true) ~= nil)
end

local function verdict(key, token, lock)
  -- Of two keys: while the slot moves to another node, which may have the one that looks gone, Redis refuses that.
  local exists = taken[key] or redis.call('EXISTS', key, groups) > has_groups
  if exists and is_own_earlier_run(key, token) then
    repeated[#repeated + 1] = key
    return 1, false
  end
  if lock ~= '' and is_locked(lock) then
    return -1, false
  end
  if exists then
    return 0, false
  end
  return 1, true
end

local function token_and_lock(i)
  if words == 2 then
    return '', ''
  end
  return ARGV[i + 2], ARGV[i + 3]
end

-- WAIT waits for the last write of its connection, which a repeated call has not made yet. Deleted first: a full Redis
-- allows that, and what follows in the same script.
local function write_again(key)
  local state = redis.pcall('HGET', key, 'state')
  if type(state) == 'string' then
    redis.call('HDEL', key, 'state')
    redis.call('HSET', key, 'state', state)
  end
end

local answers, accepted, ids = {}, {}, {}
for i = 6, #ARGV, words do
  local key, token, lock = prefix .. ARGV[i], token_and_lock(i)
  local answer, is_new = verdict(key, token, lock)
  answers[#answers + 1] = answer
  if is_new then
    accepted[#accepted + 1] = i
    ids[#ids + 1] = ARGV[i]
    taken[key] = true
    if lock ~= '' then
      held[lock] = ARGV[i]
    end
  end
end

if state == 'pending' and #ids > 0 then
  redis.call('LPUSH', container, unpack(ids))
end
for _, i in ipairs(accepted) do
  local id, message, token, lock = ARGV[i], ARGV[i + 1], token_and_lock(i)
  local key = prefix .. id
  if state == 'pending' then
    redis.call('HSET', key, 'msg', message, 'state', state, 'pending_since', now_ns)
  else
    redis.call('ZADD', container, ARGV[i + 5], id)
    redis.call('HSET', key, 'msg', message, 'state', state)
  end
  if group ~= '' then
    redis.call('HSET', key, 'group', group)
    if state == 'aggregating' then
      redis.call('SADD', groups, group)
    end
  end
  if token ~= '' then
    redis.call('HSET', key, 'enqueue_token', token)
  end
  if lock ~= '' then
    redis.call('SET', lock, id, 'EX', ARGV[i + 4])
    redis.call('HSET', key, 'unique_key', lock)
  end
end
for _, key in ipairs(repeated) do
  write_again(key)
end
return answers
