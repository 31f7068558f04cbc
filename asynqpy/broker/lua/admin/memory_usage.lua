-- Estimate the memory of a queue from a sample of its tasks. Changes nothing.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:active  [3] asynq:{q}:scheduled  [4] asynq:{q}:retry
-- KEYS[5] asynq:{q}:archived  [6] asynq:{q}:completed  [7] asynq:{q}:groups
-- ARGV[1] task key prefix  [2] group key prefix  [3] tasks in a sample  [4] groups that are sampled
-- ARGV[5] most groups whose members are counted
-- Returns bytes, as Go's Inspector estimates them: the mean of a sample times the number, and the lists themselves.
local prefix, group_prefix = ARGV[1], ARGV[2]
local sample, sampled_groups, most_groups = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function list(answer)
  return answer.err and {} or answer
end

local function number(answer)
  return type(answer) == 'number' and answer or 0
end

local function of_tasks(ids)
  local total = 0
  for _, id in ipairs(ids) do
    total = total + number(redis.call('MEMORY', 'USAGE', prefix .. id))
  end
  return total
end

local function of_container(key, ids, count)
  local own = number(redis.call('MEMORY', 'USAGE', key))
  return #ids == 0 and own or own + of_tasks(ids) / #ids * count
end

-- A set of many groups is not read whole: it would keep others waiting.
local function group_names()
  if number(redis.pcall('SCARD', KEYS[7])) <= most_groups then
    return list(redis.pcall('SMEMBERS', KEYS[7])), 1
  end
  return redis.call('SRANDMEMBER', KEYS[7], most_groups), redis.call('SCARD', KEYS[7]) / most_groups
end

local function of_groups()
  local names, share = group_names()
  local count, seen, total = 0, 0, 0
  for i, name in ipairs(names) do
    local key = group_prefix .. name
    count = count + number(redis.pcall('ZCARD', key))
    if i <= sampled_groups then
      local ids = list(redis.pcall('ZRANGE', key, 0, sample - 1))
      seen, total = seen + #ids, total + of_tasks(ids)
    end
  end
  return seen == 0 and 0 or total / seen * count * share
end

local bytes = of_groups()
for i = 1, 2 do
  local ids = list(redis.pcall('LRANGE', KEYS[i], 0, sample - 1))
  bytes = bytes + of_container(KEYS[i], ids, number(redis.pcall('LLEN', KEYS[i])))
end
for i = 3, 6 do
  local ids = list(redis.pcall('ZRANGE', KEYS[i], 0, sample - 1))
  bytes = bytes + of_container(KEYS[i], ids, number(redis.pcall('ZCARD', KEYS[i])))
end
return math.floor(bytes)
