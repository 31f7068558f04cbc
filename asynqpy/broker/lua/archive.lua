-- Put tasks that will not be tried again in `archived`, and trim what is too old or too much there.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:archived
-- KEYS[4] asynq:{q}:processed:<day>  [5] asynq:{q}:processed  [6] asynq:{q}:failed:<day>  [7] asynq:{q}:failed
-- ARGV[1] task key prefix  [2] when the day's counters expire, unix s  [3] now, unix s
-- ARGV[4] archived at or before this is dropped, unix s  [5] most archived tasks to keep  [6] most to drop at a time
-- then 3 per task: id, fence, message
-- Returns per task: 1 settled (now, or by an earlier run of this call), 0 lost to another holder.
local active, lease, archived = KEYS[1], KEYS[2], KEYS[3]
local prefix, day_expires, now = ARGV[1], ARGV[2], ARGV[3]
local cutoff, keep, chunk = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

-- The fence is the stamp in the fraction of the lease score, or the exact score (a dead holder's).
local function holds(id, fence)
  local score = redis.call('ZSCORE', lease, id)
  return score and (score == fence or (score % 1) * 2097152 == tonumber(fence))
end

-- A key of another type under the task's name is left, with its lease, for the recoverer to set aside.
local function is_writable(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'hash' or kind == 'none'
end

-- A counter at its maximum, or of the wrong type, starts anew rather than failing the settlement.
local function count(key, n)
  local total = redis.pcall('INCRBY', key, n)
  if type(total) == 'table' then
    redis.call('SET', key, n)
    return n
  end
  return total
end

-- A trimmed task goes whole: its entry, its hash, and the unique lock if it still holds it.
local function drop(ids)
  for _, id in ipairs(ids) do
    local key = prefix .. id
    local lock = redis.pcall('HGET', key, 'unique_key')
    local is_lock = type(lock) == 'string' and lock:sub(1, #prefix - 2) == prefix:sub(1, -3)
    -- As check_here; but what cannot go now goes another time.
    if type(redis.pcall('EXISTS', archived, key, is_lock and lock or key)) == 'number' then
      if is_lock and redis.pcall('GET', lock) == id then
        redis.call('DEL', lock)
      end
      redis.call('ZREM', archived, id)
      redis.call('DEL', key)
    end
  end
end

local names = {}
for i = 7, #ARGV, 3 do
  names[#names + 1] = prefix .. ARGV[i]
end
check_here(names)
redis.call('ZCARD', archived)
local answers, settled = {}, 0
for i = 7, #ARGV, 3 do
  local id, fence, message = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = prefix .. id
  if holds(id, fence) and is_writable(key) then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    redis.call('ZADD', archived, now, id)
    redis.call('HSET', key, 'msg', message, 'state', 'archived')
    redis.call('HDEL', key, 'owner', 'crashes')
    settled = settled + 1
    answers[#answers + 1] = 1
  else
    -- Two recoverers (who hold no stamp) may well write the same message: to the second the task is lost.
    local record = redis.pcall('HMGET', key, 'state', 'msg')
    local is_repeated = record[1] == 'archived' and record[2] == message and tonumber(fence) < 2097152
    answers[#answers + 1] = is_repeated and 1 or 0
  end
end
if settled > 0 then
  drop(redis.call('ZRANGEBYSCORE', archived, '-inf', cutoff, 'LIMIT', 0, chunk))
  local excess = math.min(redis.call('ZCARD', archived) - keep, chunk)
  if excess > 0 then
    drop(redis.call('ZRANGE', archived, 0, excess - 1))
  end
  for i = 4, 6, 2 do
    if count(KEYS[i], settled) == settled then
      redis.call('EXPIREAT', KEYS[i], day_expires)
    end
    count(KEYS[i + 1], settled)
  end
end
return answers
