-- Put active tasks back as the next to run, in the order they were taken; nothing is counted.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:pending
-- ARGV[1] task key prefix  [2] now, unix ns as 19 digits
-- then 3 per task: id, fence, how many workers died with it (or '' to leave that as it is)
-- Returns per task: 1 pending (now, or by an earlier run of this call), 0 lost to another holder, or gone.
local active, lease, pending = KEYS[1], KEYS[2], KEYS[3]
local prefix, now_ns = ARGV[1], ARGV[2]

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

local names = {}
for i = 3, #ARGV, 3 do
  names[#names + 1] = prefix .. ARGV[i]
end
check_here(names)
redis.call('LLEN', pending)
local answers = {}
-- Last to first: what is pushed last at the tail runs first.
for i = #ARGV - 2, 3, -3 do
  local id, fence, crashes = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = prefix .. id
  local answer = 0
  if holds(id, fence) and is_writable(key) then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    -- A hash that is gone must not come back as one without a message.
    if redis.call('EXISTS', key) == 1 then
      redis.call('RPUSH', pending, id)
      redis.call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
      redis.call('HDEL', key, 'owner')
      if crashes ~= '' then
        redis.call('HSET', key, 'crashes', crashes)
      end
      answer = 1
    end
  elseif redis.pcall('HGET', key, 'state') == 'pending' and tonumber(fence) < 2097152 then
    -- Of two recoverers (who hold no stamp) only the first has put it back.
    answer = 1
  end
  answers[i / 3] = answer
end
return answers
