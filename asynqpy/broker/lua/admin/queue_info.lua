-- Count what a queue holds and has done. Changes nothing.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:active  [3] asynq:{q}:scheduled  [4] asynq:{q}:retry
-- KEYS[5] asynq:{q}:archived  [6] asynq:{q}:completed  [7] asynq:{q}:groups
-- KEYS[8] asynq:{q}:processed  [9] asynq:{q}:failed  [10] asynq:{q}:processed:<day>  [11] asynq:{q}:failed:<day>
-- KEYS[12] asynq:{q}:paused
-- ARGV[1] task key prefix  [2] group key prefix  [3] most groups whose members are counted here
-- Returns {the number of each of KEYS[1] to KEYS[6], members of all groups or -1 where there are too many groups,
-- groups, the four counters as text or '', 1 if paused, pending_since of the next pending task or ''}
-- What holds the wrong type counts as empty: it is for the doctor.
local groups = KEYS[7]
local prefix, group_prefix, most_groups = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function size(command, key)
  local answer = redis.pcall(command, key)
  return type(answer) == 'number' and answer or 0
end

local function string_of(answer)
  return type(answer) == 'string' and answer or ''
end

local function members()
  if size('SCARD', groups) > most_groups then
    return -1
  end
  local total = 0
  local names = redis.pcall('SMEMBERS', groups)
  for _, name in ipairs(names) do
    total = total + size('ZCARD', group_prefix .. name)
  end
  return total
end

local answer = {size('LLEN', KEYS[1]), size('LLEN', KEYS[2])}
for i = 3, 6 do
  answer[i] = size('ZCARD', KEYS[i])
end
answer[7], answer[8] = members(), size('SCARD', groups)
for i = 8, 11 do
  answer[i + 1] = string_of(redis.pcall('GET', KEYS[i]))
end
answer[13] = redis.call('EXISTS', KEYS[12])
local next_id = redis.pcall('LINDEX', KEYS[1], -1)
answer[14] = string_of(next_id) ~= '' and string_of(redis.pcall('HGET', prefix .. next_id, 'pending_since')) or ''
return answer
