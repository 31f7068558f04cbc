-- Look through ids of a sorted set for those whose task does not fit in there. Changes nothing.
-- KEYS[1] the sorted set
-- ARGV[1] task key prefix  [2] the state of its tasks: scheduled, retry, archived, completed, aggregating
-- ARGV[3] name of the group, or '', then 1 per task: id
-- Returns {ids that are there, those of them that look wrong}
local prefix, state, group = ARGV[1], ARGV[2], ARGV[3]

local function is_at_home(id)
  local key = prefix .. id
  local fields = redis.pcall('HMGET', key, 'state', 'group')
  if fields.err or fields[1] ~= state or redis.call('HSTRLEN', key, 'msg') == 0 then
    return false
  end
  return group == '' or not fields[2] or fields[2] == '' or fields[2] == group
end

local found, wrong = {}, {}
for i = 4, #ARGV do
  local id = ARGV[i]
  if redis.call('ZSCORE', KEYS[1], id) then
    found[#found + 1] = id
    if not is_at_home(id) then
      wrong[#wrong + 1] = id
    end
  end
end
return {found, wrong}
