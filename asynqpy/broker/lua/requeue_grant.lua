-- Put back, as the next to run, what a dequeue gave out whose answer was lost: nobody knows which tasks these are, but
-- their leases carry its stamp and their hashes its owner. Nothing is counted.
-- KEYS[1] asynq:{q}:active  [2] asynq:{q}:lease  [3] asynq:{q}:pending
-- ARGV[1] task key prefix  [2] now, unix ns as 19 digits  [3] stamp
-- ARGV[4] [5] first and last expiry that the leases may have, unix s  [6] owner
-- Returns the number of tasks put back. Those without a message are left, with their lease, for the recoverer.
local active, lease, pending = KEYS[1], KEYS[2], KEYS[3]
local prefix, now_ns, owner = ARGV[1], ARGV[2], ARGV[6]
local stamp, first, last = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- A slot that moves to another node has some of its keys here and some there, and a key of the other node looks gone.
-- Redis refuses a command of several keys then unless it has them all. One that never exists is among them: a key that
-- the script empties could not be used again. To be asked before the first write.
local function check_here(names)
  for first = 1, #names, 900 do
    redis.call('EXISTS', KEYS[1], KEYS[1] .. ':', unpack(names, first, math.min(first + 899, #names)))
  end
end

redis.call('LLEN', active)
redis.call('LLEN', pending)
local leases = redis.call('ZRANGEBYSCORE', lease, first, '(' .. string.format('%d', last + 1), 'WITHSCORES')
local ids, names = {}, {}
for i = 1, #leases, 2 do
  if (leases[i + 1] % 1) * 2097152 == stamp then
    ids[#ids + 1] = leases[i]
    names[#names + 1] = prefix .. leases[i]
  end
end
check_here(names)
local requeued = 0
for n, id in ipairs(ids) do
  local key = names[n]
  local record = redis.pcall('HMGET', key, 'msg', 'owner')
  if record[1] and record[2] == owner then
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', lease, id)
    redis.call('RPUSH', pending, id)
    redis.call('HSET', key, 'state', 'pending', 'pending_since', now_ns)
    redis.call('HDEL', key, 'owner')
    requeued = requeued + 1
  end
end
return requeued
