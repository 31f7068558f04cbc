-- Read a page of the tasks of one state. Changes nothing.
-- KEYS[1] the container: asynq:{q}:pending, active, scheduled, retry, archived, completed or g:<group>
-- KEYS[2] asynq:{q}:lease
-- ARGV[1] task key prefix  [2] index of the first task; in a list from its tail, where the next to run is
-- ARGV[3] most tasks to answer  [4] bytes after which no more are answered
-- ARGV[5] '', or the score of the task that was read last before, where the container is a sorted set
-- ARGV[6] entries of a list to search, from the place before the first on towards the tail
-- then 1 per task: id of a task that was read before, the last one first; none at the beginning
-- Returns {index of the first, then per task: id, score or '', lease or '', message, result, pending_since; each or ''}
-- The page follows the task that was read last, wherever it is now: nothing is left out when others come and go. In a
-- sorted set its place is known even when it is gone. In a list those before it are looked for as well; {-1} if none of
-- them is among the entries that were to be searched.
local container, lease = KEYS[1], KEYS[2]
local prefix, first, count, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local before_score, searched, before = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local is_list = redis.call('TYPE', container).ok == 'list'

-- From the tail on.
local function entries(from, to)
  local found, ids = redis.call('LRANGE', container, -1 - to, -1 - from), {}
  for i = #found, 1, -1 do
    ids[#ids + 1] = found[i]
  end
  return ids
end

-- Tasks leave a list at its tail, or from its midst, so the others are where they were or nearer to the tail.
local function after_in_list()
  if redis.call('LINDEX', container, -first) == before then
    return first
  end
  local known = {}
  for i = 7, #ARGV do
    known[ARGV[i]] = true
  end
  local low = math.max(0, first - searched)
  local ids = first > 0 and entries(low, first - 1) or {}
  for i = #ids, 1, -1 do
    if known[ids[i]] then
      return low + i
    end
  end
  return -1
end

local function is_after(index)
  local entry = redis.call('ZRANGE', container, index, index, 'WITHSCORES')
  local score, wanted = tonumber(entry[2]), tonumber(before_score)
  return score > wanted or (score == wanted and entry[1] > before)
end

local function after_in_sorted_set()
  local rank = redis.call('ZRANK', container, before)
  if rank and redis.call('ZSCORE', container, before) == before_score then
    return rank + 1
  end
  local low, high = 0, redis.call('ZCARD', container)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_after(middle) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

if before then
  first = is_list and after_in_list() or after_in_sorted_set()
  if first < 0 then
    return {first}
  end
end
local ids, scores = {}, {}
if is_list then
  ids = entries(first, first + count - 1)
else
  local found = redis.call('ZRANGE', container, first, first + count - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
    scores[#scores + 1] = found[i + 1]
  end
end

local answer, bytes = {first}, 0
for i, id in ipairs(ids) do
  local record = redis.pcall('HMGET', prefix .. id, 'msg', 'result', 'pending_since')
  local held = redis.pcall('ZSCORE', lease, id)
  local message, result = record[1] or '', record[2] or ''
  bytes = bytes + #message + #result
  if i > 1 and bytes > most_bytes then
    break
  end
  for _, word in ipairs({id, scores[i] or '', type(held) == 'string' and held or '', message, result}) do
    answer[#answer + 1] = word
  end
  answer[#answer + 1] = record[3] or ''
end
return answer
