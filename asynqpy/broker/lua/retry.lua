-- Put failed tasks in `retry` until their next attempt.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:retry
-- KEYS[4] asynq:{q}:processed:<day>  [5] asynq:{q}:processed  [6] asynq:{q}:failed:<day>  [7] asynq:{q}:failed
-- ARGV[1] task key prefix  [2] when the day's counters expire, unix s
-- then 6 per task: id, fence, message, time of the next attempt in unix s, 1 if the failure is counted else 0,
-- how many workers died with it (or '': the attempt has ended)
-- Returns per task: 1 settled (now, or by an earlier run of this call), 0 lost to another holder.
local active, lease, retry = KEYS[1], KEYS[2], KEYS[3]
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
for i = 3, #ARGV, 6 do
  names[#names + 1] = prefix .. ARGV[i]
end
check_here(names)
redis.call('ZCARD', retry)
local answers, counted = {}, 0
for i = 3, #ARGV, 6 do
  local id, fence, message, score = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = prefix .. id
  if holds(id, fence) and is_writable(key) then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    redis.call('ZADD', retry, score, id)
    redis.call('HSET', key, 'msg', message, 'state', 'retry')
    redis.call('HDEL', key, 'owner', 'crashes')
    if ARGV[i + 5] ~= '' then
      redis.call('HSET', key, 'crashes', ARGV[i + 5])
    end
    counted = counted + tonumber(ARGV[i + 4])
    answers[#answers + 1] = 1
  else
    -- Two recoverers (who hold no stamp) may well write the same message: to the second the task is lost.
    local record = redis.pcall('HMGET', key, 'state', 'msg')
    local is_repeated = record[1] == 'retry' and record[2] == message and tonumber(fence) < 2097152
    answers[#answers + 1] = is_repeated and 1 or 0
  end
end
if counted > 0 then
  for i = 4, 6, 2 do
    if count(KEYS[i], counted) == counted then
      redis.call('EXPIREAT', KEYS[i], day_expires)
    end
    count(KEYS[i + 1], counted)
  end
end
return answers
