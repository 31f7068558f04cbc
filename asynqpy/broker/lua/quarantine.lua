-- Set aside tasks of one queue that cannot be read, keeping every byte: the hash moves to our own key.
-- KEYS[1] the sorted set that lists them: asynq:{q}:lease, asynq:{q}:scheduled or asynq:{q}:retry
-- KEYS[2] asynq:{q}:active  [3] asynqpy:{q}:quarantine
-- ARGV[1] task key prefix  [2] quarantine key prefix  [3] now, unix s
-- then 2 per task: id, fence (stamp or exact score, as in done.lua)
-- Returns the ids of the tasks set aside.
local listed, active, quarantine = KEYS[1], KEYS[2], KEYS[3]
local prefix, quarantine_prefix, now = ARGV[1], ARGV[2], ARGV[3]

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

local function matches(id, fence)
  local score = redis.call('ZSCORE', listed, id)
  return score and (score == fence or (score % 1) * 2097152 == tonumber(fence))
end

-- Whatever was set aside under the same id before stays.
local function free_name(id)
  local name = id
  local n = 1
  while redis.call('EXISTS', quarantine_prefix .. name) == 1 do
    n = n + 1
    name = id .. ':' .. n
  end
  return name
end

local names = {}
for i = 4, #ARGV, 2 do
  names[#names + 1] = prefix .. ARGV[i]
  names[#names + 1] = quarantine_prefix .. ARGV[i]
end
check_here(names)
redis.call('ZCARD', quarantine)
local moved = {}
for i = 4, #ARGV, 2 do
  local id, fence = ARGV[i], ARGV[i + 1]
  if matches(id, fence) then
    local name = free_name(id)
    redis.call('ZREM', listed, id)
    redis.pcall('LREM', active, 1, id)
    if redis.call('EXISTS', prefix .. id) == 1 then
      redis.call('RENAME', prefix .. id, quarantine_prefix .. name)
    end
    redis.call('ZADD', quarantine, now, name)
    moved[#moved + 1] = id
  end
end
return moved
