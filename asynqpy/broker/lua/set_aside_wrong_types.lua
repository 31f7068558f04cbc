-- Rename the keys of one queue that hold another type than they should: nobody can use them, and they block the queue.
-- KEYS any containers of the queue
-- ARGV[1] quarantine key prefix
-- then 2 per key of KEYS: its expected type, its name below the prefix
-- Returns the names that were set aside.
local quarantine_prefix = ARGV[1]

local names = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= ARGV[2 * i] then
    local name = 'key:' .. ARGV[2 * i + 1]
    local free, n = name, 1
    while redis.call('EXISTS', quarantine_prefix .. free) == 1 do
      n = n + 1
      free = name .. ':' .. n
    end
    redis.call('RENAME', key, quarantine_prefix .. free)
    names[#names + 1] = free
  end
end
return names
