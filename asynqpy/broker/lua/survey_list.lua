-- Look through a part of a list for ids whose task does not fit in there, or that come twice. Changes nothing.
-- KEYS[1] asynq:{q}:pending or asynq:{q}:active  [2] asynq:{q}:lease
-- ARGV[1] task key prefix  [2] the state of its tasks: pending or active  [3] first index  [4] last index
-- Returns {ids that are there, those of them that look wrong}
local list, lease = KEYS[1], KEYS[2]
local prefix, state = ARGV[1], ARGV[2]

local function fits_in(id)
  local key = prefix .. id
  local stored = redis.pcall('HGET', key, 'state')
  if stored ~= state or redis.call('HSTRLEN', key, 'msg') == 0 then
    return false
  end
  return state ~= 'active' or type(redis.pcall('ZSCORE', lease, id)) == 'string'
end

local found, wrong, seen = redis.call('LRANGE', list, ARGV[3], ARGV[4]), {}, {}
for _, id in ipairs(found) do
  if seen[id] or not fits_in(id) then
    wrong[#wrong + 1] = id
  end
  seen[id] = true
end
return {found, wrong}
