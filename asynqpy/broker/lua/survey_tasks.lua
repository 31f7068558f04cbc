-- Look for tasks of one queue that are not where their state says. Changes nothing.
-- KEYS[1] asynq:{q}:lease  [2] asynq:{q}:scheduled  [3] asynq:{q}:retry  [4] asynq:{q}:archived  [5] asynq:{q}:completed
-- ARGV[1] task key prefix  [2] group key prefix, then 1 per task: id
-- Returns {ids that look wrong, {id, pending_since or '', … of the pending}, {ids of the aggregating that are not in
-- their group}}: whether the latter two are anywhere is for the caller to know, who has read the lists.
local places = {active = KEYS[1], scheduled = KEYS[2], retry = KEYS[3], archived = KEYS[4], completed = KEYS[5]}
local prefix, group_prefix = ARGV[1], ARGV[2]

local function is_in(key, id)
  return type(redis.pcall('ZSCORE', key, id)) == 'string'
end

local wrong, pending, aggregating = {}, {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local key = prefix .. id
  local kind = redis.call('TYPE', key).ok
  local fields = kind == 'hash' and redis.call('HMGET', key, 'state', 'pending_since', 'group') or {}
  local state, since, group = fields[1], fields[2], fields[3]
  if kind ~= 'none' and (kind ~= 'hash' or redis.call('HSTRLEN', key, 'msg') == 0) then
    wrong[#wrong + 1] = id
  elseif state == 'pending' then
    pending[#pending + 1] = id
    pending[#pending + 1] = since or ''
  elseif state == 'aggregating' then
    if not group or not is_in(group_prefix .. group, id) then
      aggregating[#aggregating + 1] = id
    end
  elseif kind ~= 'none' and not (places[state or ''] and is_in(places[state], id)) then
    wrong[#wrong + 1] = id
  end
end
return {wrong, pending, aggregating}
