-- Delete completed tasks of one queue whose retention has ended.
-- KEYS[1] asynq:{q}:completed
-- ARGV[1] task key prefix  [2] now, unix s  [3] most tasks to delete
-- Returns the number of tasks deleted.
local completed = KEYS[1]
local prefix = ARGV[1]

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

local ids = redis.call('ZRANGEBYSCORE', completed, '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
local names = {}
for n, id in ipairs(ids) do
  names[n] = prefix .. id
end
check_here(names)
for n, id in ipairs(ids) do
  redis.call('ZREM', completed, id)
  redis.call('DEL', names[n])
end
return #ids
