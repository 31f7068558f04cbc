-- Keep tasks that succeeded until their retention ends.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:completed
-- KEYS[4] asynq:{q}:processed:<day>  [5] asynq:{q}:processed
-- ARGV[1] task key prefix  [2] when the day's counter expires, unix s
-- then 5 per task: id, fence, lock key or '', message, end of retention in unix s
-- Returns per task: 1 settled (now, or by an earlier run of this call), 0 lost to another holder.
local active, lease, completed, processed_today, processed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local prefix, day_expires = ARGV[1], ARGV[2]

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

local names = {}
for i = 3, #ARGV, 5 do
  names[#names + 1] = prefix .. ARGV[i]
  if ARGV[i + 2] ~= '' then
    names[#names + 1] = ARGV[i + 2]
  end
end
check_here(names)
redis.call('ZCARD', completed)
local answers, settled = {}, 0
for i = 3, #ARGV, 5 do
  local id, fence, lock, message, score = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local key = prefix .. id
  if holds(id, fence) and is_writable(key) then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    redis.call('ZADD', completed, score, id)
    redis.call('HSET', key, 'msg', message, 'state', 'completed')
    redis.call('HDEL', key, 'owner', 'crashes')
    if lock ~= '' and redis.pcall('GET', lock) == id then
      redis.call('DEL', lock)
    end
    settled = settled + 1
    answers[#answers + 1] = 1
  else
    local record = redis.pcall('HMGET', key, 'state', 'msg')
    answers[#answers + 1] = (record[1] == 'completed' and record[2] == message) and 1 or 0
  end
end
if settled > 0 then
  if count(processed_today, settled) == settled then
    redis.call('EXPIREAT', processed_today, day_expires)
  end
  count(processed, settled)
end
return answers
