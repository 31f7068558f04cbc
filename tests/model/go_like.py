"""Workers and recoverers that do to Redis what Go's asynq does: whole-second leases, no fence, checks after writes.

Written from the descriptions in docs/wire.md and WIRE §4, for one queue. Each function is one call.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.producing import NewTask
from asynqpy.errors import MalformedMessageError
from tests import redis_state as state
from tests.model.queue_state import QUEUE

_PREFIX = state.key(QUEUE, "")

# ARGV: prefix, id, message, state, score (unix s), lock or '', lock's ttl (s), group or ''
_ENQUEUE = """
local prefix, id, lock = ARGV[1], ARGV[2], ARGV[6]
local task = prefix .. 't:' .. id
if lock ~= '' and not redis.call('SET', lock, id, 'NX', 'EX', ARGV[7]) then
  return -1
end
if redis.call('EXISTS', task) == 1 then
  return 0
end
redis.call('HSET', task, 'msg', ARGV[3], 'state', ARGV[4])
if ARGV[4] == 'pending' then
  redis.call('LPUSH', prefix .. 'pending', id)
elseif ARGV[4] == 'scheduled' then
  redis.call('ZADD', prefix .. 'scheduled', ARGV[5], id)
else
  redis.call('HSET', task, 'group', ARGV[8])
  redis.call('ZADD', prefix .. 'g:' .. ARGV[8], ARGV[5], id)
  redis.call('SADD', prefix .. 'groups', ARGV[8])
  return 1
end
if lock ~= '' then
  redis.call('HSET', task, 'unique_key', lock)
end
return 1
"""

# ARGV: prefix, lease score
_DEQUEUE = """
local prefix = ARGV[1]
if redis.call('EXISTS', prefix .. 'paused') == 1 then
  return false
end
local id = redis.call('RPOPLPUSH', prefix .. 'pending', prefix .. 'active')
if not id then
  return false
end
redis.call('HSET', prefix .. 't:' .. id, 'state', 'active')
redis.call('HDEL', prefix .. 't:' .. id, 'pending_since')
redis.call('ZADD', prefix .. 'lease', ARGV[2], id)
return redis.call('HGET', prefix .. 't:' .. id, 'msg')
"""

# ARGV: prefix, id, what, message, score, lock or ''
_SETTLE = """
local prefix, id, what = ARGV[1], ARGV[2], ARGV[3]
local task = prefix .. 't:' .. id
if redis.call('LREM', prefix .. 'active', 0, id) == 0 or redis.call('ZREM', prefix .. 'lease', id) == 0 then
  return redis.error_reply('NOT FOUND')
end
if what == 'done' then
  if redis.call('DEL', task) == 0 then
    return redis.error_reply('NOT FOUND')
  end
elseif what == 'requeue' then
  redis.call('RPUSH', prefix .. 'pending', id)
  redis.call('HSET', task, 'state', 'pending')
else
  if redis.call('ZADD', prefix .. what, ARGV[5], id) == 0 and what == 'completed' then
    return redis.error_reply('INTERNAL')
  end
  redis.call('HSET', task, 'msg', ARGV[4], 'state', what)
end
if (what == 'done' or what == 'completed') and ARGV[6] ~= '' and redis.call('GET', ARGV[6]) == id then
  redis.call('DEL', ARGV[6])
end
return 1
"""

# ARGV: prefix, name of the sorted set, now in unix s
_FORWARD = """
local prefix, source, now = ARGV[1], ARGV[1] .. ARGV[2], ARGV[3]
local ids = redis.call('ZRANGEBYSCORE', source, '-inf', now, 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  local task = prefix .. 't:' .. id
  local group = redis.call('HGET', task, 'group')
  if group and group ~= '' then
    redis.call('ZADD', prefix .. 'g:' .. group, now, id)
    redis.call('HSET', task, 'state', 'aggregating')
  else
    redis.call('LPUSH', prefix .. 'pending', id)
    redis.call('HSET', task, 'state', 'pending', 'pending_since', now .. '000000000')
  end
  redis.call('ZREM', source, id)
end
return #ids
"""


async def _run(redis: Redis, script: str, *words: str | bytes | int) -> Any:
    """The answer, ``None`` for an error: a Go worker logs it and goes on."""
    try:
        return await state.ask(redis, "EVAL", script, 0, _PREFIX, *words)
    except ResponseError:
        return None


async def enqueue(redis: Redis, task: NewTask) -> bool:
    """Answers whether it is stored."""
    await state.ask(redis, "SADD", "asynq:queues", QUEUE)
    message = task.message
    words = (message.id, message.encode(), str(task.state), task.score)
    lock = (message.unique_key, task.lock_ttl, message.group_key)
    return bool(await _run(redis, _ENQUEUE, *words, *lock) == 1)


async def dequeue(redis: Redis, now: float) -> TaskMessage | None:
    data = await _run(redis, _DEQUEUE, int(now + 30))
    try:
        return TaskMessage.decode(data) if data else None
    except MalformedMessageError:
        return None


async def settle(redis: Redis, what: str, message: TaskMessage, now: float) -> bool:
    """``done``, ``requeue``, or the name of the set to put it in; answers whether all of it was done."""
    after, score = message, int(now)
    if what == "retry":
        after = msgspec.structs.replace(
            message, retried=message.retried + 1, error_msg="no", last_failed_at=int(now)
        )
        score += 15
    elif what == "archived":
        after = msgspec.structs.replace(message, error_msg="no", last_failed_at=int(now))
    elif what == "completed":
        after = msgspec.structs.replace(message, completed_at=int(now))
        score += message.retention
    words = (message.id, what, after.encode(), score, message.unique_key)
    return bool(await _run(redis, _SETTLE, *words) == 1)


async def extend(redis: Redis, ids: list[str], now: float) -> None:
    for task_id in ids:
        await state.ask(redis, "ZADD", f"{_PREFIX}lease", "XX", int(now + 30), task_id)


async def write_result(redis: Redis, task_id: str, data: bytes) -> None:
    await state.ask(redis, "HSET", state.task_key(QUEUE, task_id), "result", data)


async def forward(redis: Redis, now: float) -> None:
    for name in ("scheduled", "retry"):
        await _run(redis, _FORWARD, name, int(now))


async def list_expired(redis: Redis, now: float) -> list[TaskMessage]:
    """What a recoverer would retry or archive: it acts on these copies, whatever happens meanwhile."""
    leases = await state.scores(redis, "lease", QUEUE)
    expired = []
    for task_id, score in leases.items():
        data = await state.ask(redis, "HGET", state.task_key(QUEUE, task_id), "msg")
        if score <= int(now - 30) and data:
            expired.append(TaskMessage.decode(data))
    return expired
