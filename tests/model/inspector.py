"""What people do to a queue by Go's CLI or web UI, in raw scripts: asynqpy's workers share it with them."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests import redis_state as state
from tests.model.queue_state import QUEUE

# KEYS[1] the task hash; ARGV[1] the id, [2] prefix of the queue's keys, [3] what to do, [4] now in unix s.
_MOVE = """
local task, id, prefix, what = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local from = redis.call('HGET', task, 'state')
local barred = {run = 'pending', archive = 'archived', delete = 'active'}
if not from or from == 'active' or from == barred[what] then
  return 0
end
local removed
if from == 'pending' then
  removed = redis.call('LREM', prefix .. 'pending', 1, id)
elseif from == 'aggregating' then
  local group = redis.call('HGET', task, 'group')
  removed = redis.call('ZREM', prefix .. 'g:' .. group, id)
  if redis.call('ZCARD', prefix .. 'g:' .. group) == 0 then
    redis.call('SREM', prefix .. 'groups', group)
  end
else
  removed = redis.call('ZREM', prefix .. from, id)
end
if removed == 0 then
  return redis.error_reply('the task is not where its state says')
end
if what == 'run' then
  redis.call('LPUSH', prefix .. 'pending', id)
  redis.call('HSET', task, 'state', 'pending')
elseif what == 'archive' then
  redis.call('ZADD', prefix .. 'archived', ARGV[4], id)
  redis.call('HSET', task, 'state', 'archived')
else
  local lock = redis.call('HGET', task, 'unique_key')
  if lock and lock ~= '' and redis.call('GET', lock) == id then
    redis.call('DEL', lock)
  end
  redis.call('DEL', task)
end
return 1
"""


async def move(redis: Redis, what: str, task_id: str, now: float) -> bool:
    """``run``, ``archive`` or ``delete`` one task; answers whether its state and its place allowed it."""
    words = (task_id, state.key(QUEUE, ""), what, int(now))
    try:
        answer = await state.ask(redis, "EVAL", _MOVE, 1, state.task_key(QUEUE, task_id), *words)
    except ResponseError:
        return False
    return bool(answer)


async def pause(redis: Redis, now: float) -> None:
    await state.ask(redis, "SET", state.key(QUEUE, "paused"), int(now), "NX")


async def unpause(redis: Redis) -> None:
    await state.ask(redis, "DEL", state.key(QUEUE, "paused"))
