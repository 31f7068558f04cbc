-- See that exactly the groups with members are listed in `groups`; on a dry run only tell which are not.
-- KEYS[1] asynq:{q}:groups  [2] asynq:{q}:aggregation_sets
-- ARGV[1] task key prefix  [2] group key prefix  [3] 'heal' or 'dry', then 1 per group: its name
-- Returns per name: '' sound, 'unindexed_group', 'empty_group', or 'set' for an aggregation set, which is no group
local groups, sets = KEYS[1], KEYS[2]
local prefix, group_prefix, heals = ARGV[1], ARGV[2], ARGV[3] == 'heal'
local hex = '%x'
local set_id = ':' .. hex:rep(8) .. '%-' .. (hex:rep(4) .. '%-'):rep(3) .. hex:rep(12) .. '$'

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

-- A set that lost its entry is known by its name, unless its members say that they belong to a group of that name.
local function is_set(name, key, is_listed)
  if type(redis.pcall('ZSCORE', sets, key)) == 'string' then
    return true
  elseif is_listed or not name:find(set_id) then
    return false
  end
  local first = redis.call('ZRANGE', key, 0, 0)[1]
  if first then
    check_here({prefix .. first})
  end
  local group = first and redis.pcall('HGET', prefix .. first, 'group')
  return first and group ~= name
end

local names = {}
for i = 4, #ARGV do
  names[#names + 1] = group_prefix .. ARGV[i]
end
check_here(names)
local answers = {}
for i = 4, #ARGV do
  local name = ARGV[i]
  local key = group_prefix .. name
  local is_listed = redis.pcall('SISMEMBER', groups, name) == 1
  local size = redis.pcall('ZCARD', key)
  local answer = ''
  if type(size) ~= 'number' then
    answer = ''
  elseif size == 0 and is_listed then
    answer = 'empty_group'
    if heals then
      redis.call('SREM', groups, name)
    end
  elseif size > 0 and is_set(name, key, is_listed) then
    answer = 'set'
  elseif size > 0 and not is_listed then
    answer = 'unindexed_group'
    if heals then
      redis.call('SADD', groups, name)
    end
  end
  answers[#answers + 1] = answer
end
return answers
