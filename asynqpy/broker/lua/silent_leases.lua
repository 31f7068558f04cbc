-- List the leases of one queue that have not been extended for a while, longest ago first. Changes nothing.
-- KEYS[1] asynq:{q}:lease
-- ARGV[1] task key prefix  [2] leases that end at or before this are listed, unix s
-- ARGV[3] the same for those of Go servers, which write whole seconds  [4] most leases to look at
-- Returns {id, exact lease score, owner or '', number of crashes or '', …}
-- The owner is that of the lease only where the score has a fraction: Go leaves the field as it was.
local lease = KEYS[1]
local prefix, go_cutoff = ARGV[1], tonumber(ARGV[3])

local function text(value)
  return type(value) == 'string' and value or ''
end

local found = redis.call('ZRANGEBYSCORE', lease, '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local leases = {}
for i = 1, #found, 2 do
  local id, score = found[i], found[i + 1]
  if score % 1 ~= 0 or tonumber(score) <= go_cutoff then
    local record = redis.pcall('HMGET', prefix .. id, 'owner', 'crashes')
    for _, value in ipairs({id, score, text(record[1]), text(record[2])}) do
      leases[#leases + 1] = value
    end
  end
end
return leases
