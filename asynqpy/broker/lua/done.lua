-- Delete tasks that ended and need not be kept.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:processed:<day>  [4] asynq:{q}:processed
-- ARGV[1] task key prefix  [2] when the day's counter expires, unix s
-- then 3 per task: id, fence, lock key or ''
-- Returns per task: 1 settled, 0 lost to another holder. A task that is gone altogether was settled by an earlier run.
local active, lease, processed_today, processed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, day_expires = ARGV[1], ARGV[2]

-- The fence is the stamp in the fraction of the lease score, or the exact score (a dead holder's).
local function holds(id, fence)
  local score = redis.call('ZSCORE', lease, id)
  return score and (score == fence or (score % 1) * 2097152 == tonumber(fence))
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

local answers, settled = {}, 0
for i = 3, #ARGV, 3 do
  local id, fence, lock = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if holds(id, fence) then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    redis.call('DEL', prefix .. id)
    if lock ~= '' and redis.pcall('GET', lock) == id then
      redis.call('DEL', lock)
    end
    settled = settled + 1
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 1 - redis.call('EXISTS', prefix .. id)
  end
end
if settled > 0 then
  if count(processed_today, settled) == settled then
    redis.call('EXPIREAT', processed_today, day_expires)
  end
  count(processed, settled)
end
return answers
