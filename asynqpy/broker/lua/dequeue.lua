-- Hand pending tasks of one queue to a server, oldest first, each under a lease. A paused queue gives none.
-- KEYS[1] asynq:{q}:pending  [2] asynq:{q}:paused  [3] asynq:{q}:active  [4] asynq:{q}:lease
-- ARGV[1] task key prefix  [2] most tasks to give (0 only asks for the backlog)  [3] lease score: expiry in unix s + stamp
-- ARGV[4] owner: whose presence says that the leases are held  [5] '1' if it is of interest since when they are pending
-- Returns {backlog left, {id, message, id, message, …}, {ids that were pending and running at once, now only running},
-- {pending_since or '' of each task that is given, if asked for}}
-- A task whose message is gone is handed out with an empty message, under a lease like any other, for the caller to set
-- aside: should the caller die first, the expired lease brings the id back to light.
local pending, paused, active, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, limit, score, owner = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local fields = ARGV[5] == '1' and {'msg', 'state', 'pending_since'} or {'msg', 'state'}

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

if redis.call('EXISTS', paused) == 1 then
  return {0, {}, {}, {}}
end
local backlog = redis.call('LLEN', pending)
local count = math.min(limit, backlog)
if count == 0 then
  return {backlog, {}, {}, {}}
end

-- Read everything before the first write; a container of the wrong type fails here.
redis.call('LLEN', active)
redis.call('ZCARD', lease)
local ids = redis.call('LRANGE', pending, -count, -1)
local names = {}
for i, id in ipairs(ids) do
  names[i] = prefix .. id
end
check_here(names)
local tasks, since, taken, leases, readable, repeated, seen = {}, {}, {}, {}, {}, {}, {}
for i = #ids, 1, -1 do
  local id = ids[i]
  local record = redis.pcall('HMGET', names[i], unpack(fields))
  if seen[id] or (record[2] == 'active' and redis.call('ZSCORE', lease, id)) then
    repeated[#repeated + 1] = id
  else
    tasks[#tasks + 1] = id
    tasks[#tasks + 1] = record[1] or ''
    taken[#taken + 1] = id
    leases[#leases + 1] = score
    leases[#leases + 1] = id
    if fields[3] then
      since[#since + 1] = record[3] or ''
    end
    if record[1] then
      readable[#readable + 1] = names[i]
    end
  end
  seen[id] = true
end

-- RPOP is the move that a full Redis (noeviction) still allows; once it has written, the rest of the script is let
-- through, so workers can drain it.
redis.call('RPOP', pending, count)
if #taken > 0 then
  redis.call('LPUSH', active, unpack(taken))
  redis.call('ZADD', lease, unpack(leases))
end
for _, key in ipairs(readable) do
  redis.call('HSET', key, 'state', 'active', 'owner', owner)
  redis.call('HDEL', key, 'pending_since')
end
return {backlog - count, tasks, repeated, since}
