-- Delete tasks that ended and need not be kept.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:processed:<day>  [4] asynq:{q}:processed
-- ARGV[1] task key prefix  [2] when the day's counter expires, unix s
-- then 3 per task: id, fence, lock key or ''
-- Returns per task: 1 settled, 0 lost to another holder. A task that is gone altogether was settled by an earlier run.
local active, lease, processed_today, processed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
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
local function opens(score, fence)
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

if #ARGV < 3 then
  return {}
end
local ids = {}
for i = 3, #ARGV, 3 do
  ids[#ids + 1] = ARGV[i]
end
local scores = redis.call('ZMSCORE', lease, unpack(ids))

local answers, settled, locks, records, held, seen = {}, {}, {}, {}, {}, {}
for n, id in ipairs(ids) do
  local key = prefix .. id
  if not seen[id] and opens(scores[n], ARGV[3 * n + 1]) then
    seen[id] = true
    settled[#settled + 1] = id
    locks[#locks + 1] = ARGV[3 * n + 2]
    held[#held + 1] = locks[#locks] ~= '' and locks[#locks] or nil
    records[#records + 1] = key
    answers[n] = 1
  else
    answers[n] = seen[id] and 1 or 1 - redis.call('EXISTS', key)
  end
end
if #settled == 0 then
  return answers
end
check_here(records)
check_here(held)

-- Backwards, as dequeue has put the last one at the head of the list: what LREM looks for is near by.
for n = #settled, 1, -1 do
  local id = settled[n]
  redis.call('LREM', active, 1, id)
  if locks[n] ~= '' and redis.pcall('GET', locks[n]) == id then
    redis.call('DEL', locks[n])
  end
end
redis.call('ZREM', lease, unpack(settled))
redis.call('DEL', unpack(records))
if count(processed_today, #settled) == #settled then
  redis.call('EXPIREAT', processed_today, day_expires)
end
count(processed, #settled)
return answers
