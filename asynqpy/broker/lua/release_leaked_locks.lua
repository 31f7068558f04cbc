-- Delete unique locks whose task is gone, completed, or knows nothing of them; on a dry run only tell which.
-- KEYS any unique locks of one queue
-- ARGV[1] task key prefix  [2] 'heal' or 'dry'
-- Returns 2 per lock: '' sound, 'leaked_lock', or 'wrong_type' for what is no string; its holder, or ''
-- An archived task keeps its lock until the TTL, as in asynq.
local prefix, heals = ARGV[1], ARGV[2] == 'heal'

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

-- The message of a task that took a lock names it. Go sets the lock first, and leaves it when the id turns out taken.
local function is_leaked(lock, holder)
  local record = redis.pcall('HMGET', prefix .. holder, 'state', 'msg')
  if record.err then
    return false
  end
  return record[1] == 'completed' or not record[2] or not string.find(record[2], lock, 1, true)
end

local holders, names = {}, {}
for i, lock in ipairs(KEYS) do
  local holder = redis.pcall('GET', lock)
  holders[i] = holder
  names[#names + 1] = type(holder) == 'string' and prefix .. holder or nil
end
check_here(names)
local answers = {}
for i, lock in ipairs(KEYS) do
  local holder = holders[i]
  local answer = ''
  if type(holder) == 'table' then
    holder, answer = '', 'wrong_type'
  elseif holder and is_leaked(lock, holder) then
    answer = 'leaked_lock'
    if heals then
      redis.call('DEL', lock)
    end
  end
  answers[2 * i - 1], answers[2 * i] = answer, holder or ''
end
return answers
