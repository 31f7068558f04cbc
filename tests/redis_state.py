"""Seeds and reads Redis below the broker, with raw commands and messages built from the schema.

Keys, fields and states are spelt out here once more, from WIRE §1 and §2, so that no mistake of the
broker can hide itself. Times are unix s unless a name says ns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from asynqpy.broker import asynq_pb2 as pb
from tests.raw_redis import ask as ask
from tests.raw_redis import keys_of

Dump: TypeAlias = dict[str, Any]
"""Every key with its value: bytes, a list of bytes, a set of bytes, or a dict from bytes."""

Command: TypeAlias = tuple[Any, ...]

LISTS = ("pending", "active")
SORTED_SETS = ("scheduled", "retry", "archived", "completed")
SINCE_NS = 1_700_000_000_000_000_000

_SET_ID = re.compile(r":[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def message(task_id: str = "t1", **fields: Any) -> pb.TaskMessage:
    """A message as a client writes it; ``fields`` are those of the schema."""
    defaults: dict[str, Any] = {
        "type": "email:welcome",
        "payload": b'{"user_id":42}',
        "queue": "default",
        "retry": 25,
        "timeout": 1800,
    }
    return pb.TaskMessage(id=task_id, **(defaults | fields))


def messages(count: int, prefix: str = "t", **fields: Any) -> list[pb.TaskMessage]:
    return [message(f"{prefix}{n}", **fields) for n in range(count)]


def key(queue: str, suffix: str) -> str:
    return f"asynq:{{{queue}}}:{suffix}"


def task_key(queue: str, task_id: str) -> str:
    return key(queue, f"t:{task_id}")


def lock_key(
    queue: str = "default", name: str = "email:welcome:1181f89307fa271072c095747d5813cc"
) -> str:
    return key(queue, f"unique:{name}")


# Seeding. Each task is registered, gets its hash and its entry, and the lock that its message names.


async def seed_pending(redis: Redis, *tasks: pb.TaskMessage) -> None:
    commands: list[Command] = []
    for task in tasks:
        commands += _record(task, "pending", pending_since=SINCE_NS)
        commands.append(("LPUSH", key(task.queue, "pending"), task.id))
    await _pipelined(redis, commands)


async def seed_active(redis: Redis, *tasks: pb.TaskMessage, lease: float | str) -> None:
    """``lease`` is the score: a whole number is a Go worker's."""
    commands: list[Command] = []
    for task in tasks:
        commands += _record(task, "active")
        commands.append(("LPUSH", key(task.queue, "active"), task.id))
        commands.append(("ZADD", key(task.queue, "lease"), lease, task.id))
    await _pipelined(redis, commands)


async def seed_scheduled(redis: Redis, *tasks: pb.TaskMessage, at: float) -> None:
    await _seed_sorted(redis, "scheduled", tasks, at)


async def seed_retry(redis: Redis, *tasks: pb.TaskMessage, at: float) -> None:
    await _seed_sorted(redis, "retry", tasks, at)


async def seed_archived(redis: Redis, *tasks: pb.TaskMessage, at: float) -> None:
    await _seed_sorted(redis, "archived", tasks, at)


async def seed_completed(redis: Redis, *tasks: pb.TaskMessage, until: float) -> None:
    await _seed_sorted(redis, "completed", tasks, until)


async def seed_aggregating(redis: Redis, *tasks: pb.TaskMessage, at: float) -> None:
    """Members of the groups that their messages name."""
    commands: list[Command] = []
    for task in tasks:
        group = task.group_key
        commands += _record(task, "aggregating", group=group)
        commands.append(("ZADD", key(task.queue, f"g:{group}"), at, task.id))
        commands.append(("SADD", key(task.queue, "groups"), group))
    await _pipelined(redis, commands)


async def _seed_sorted(
    redis: Redis, state: str, tasks: Sequence[pb.TaskMessage], score: float
) -> None:
    commands: list[Command] = []
    for task in tasks:
        commands += _record(task, state)
        commands.append(("ZADD", key(task.queue, state), score, task.id))
    await _pipelined(redis, commands)


def _record(task: pb.TaskMessage, state: str, **fields: str | int) -> Iterator[Command]:
    yield ("SADD", "asynq:queues", task.queue)
    if task.unique_key:
        fields["unique_key"] = task.unique_key
        yield ("SET", task.unique_key, task.id, "EX", 3600)
    words = [word for field in fields.items() for word in field]
    key_of_task = task_key(task.queue, task.id)
    yield ("HSET", key_of_task, "msg", task.SerializeToString(), "state", state, *words)


_SEED_MANY = """
for i = 2, #ARGV, 3 do
  local id, score, message = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if ARGV[1] == 'pending' or ARGV[1] == 'active' then
    redis.call('LPUSH', KEYS[1], id)
  end
  if ARGV[1] ~= 'pending' then
    redis.call('ZADD', ARGV[1] == 'active' and KEYS[3] or KEYS[1], score, id)
  end
  redis.call('HSET', KEYS[2] .. id, 'msg', message, 'state', ARGV[1])
end
"""


async def seed_many(
    redis: Redis, container: str, ids: Mapping[str, float], queue: str = "default"
) -> None:
    """Thousands of tasks at once: id -> score, which is the lease of an active task."""
    words: list[Any] = [container]
    for task_id, score in ids.items():
        words += [task_id, score, message(task_id, queue=queue).SerializeToString()]
    await ask(redis, "SADD", "asynq:queues", queue)
    names = (key(queue, container), task_key(queue, ""), key(queue, "lease"))
    await ask(redis, "EVAL", _SEED_MANY, 3, *names, *words)


# Reading.


async def task_hash(redis: Redis, task_id: str, queue: str = "default") -> dict[str, bytes]:
    """The fields of a task; empty when it is gone."""
    fields = await ask(redis, "HGETALL", task_key(queue, task_id))
    return {name.decode(): value for name, value in fields.items()}


async def stored_message(redis: Redis, task_id: str, queue: str = "default") -> pb.TaskMessage:
    data = await ask(redis, "HGET", task_key(queue, task_id), "msg")
    stored = pb.TaskMessage()
    stored.ParseFromString(data)
    return stored


async def listed(redis: Redis, container: str, queue: str = "default") -> list[str]:
    """The ids of ``pending`` or ``active``, in the order in which they are taken."""
    ids = await ask(redis, "LRANGE", key(queue, container), 0, -1)
    return [task_id.decode() for task_id in reversed(ids)]


async def scores(redis: Redis, container: str, queue: str = "default") -> dict[str, float]:
    """The ids of a sorted set and their scores, lowest first."""
    pairs = await ask(redis, "ZRANGE", key(queue, container), 0, -1, "WITHSCORES")
    flat = (
        [word for pair in pairs for word in pair]
        if pairs and isinstance(pairs[0], tuple)
        else pairs
    )
    return {i.decode(): float(s) for i, s in zip(flat[::2], flat[1::2], strict=True)}


async def states(redis: Redis, *task_ids: str, queue: str = "default") -> list[str]:
    """The state of each task, ``""`` for one that is gone."""
    values = [await ask(redis, "HGET", task_key(queue, task_id), "state") for task_id in task_ids]
    return [(value or b"").decode() for value in values]


async def counter(redis: Redis, name: str, queue: str = "default") -> int:
    """``processed``, ``failed``, or one of them with a day."""
    return int(await ask(redis, "GET", key(queue, name)) or 0)


_READERS: dict[bytes, tuple[str, ...]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", "0", "-1"),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    b"hash": ("HGETALL",),
}


async def dump(redis: Redis, pattern: str = "*") -> Dump:
    """Everything that is there; two dumps are equal when nothing has changed."""
    names = await keys_of(redis, pattern)
    kinds = await _pipelined(redis, [("TYPE", name) for name in names])
    reads = [
        (_READERS[kind][0], name, *_READERS[kind][1:])
        for name, kind in zip(names, kinds, strict=True)
    ]
    values = await _pipelined(redis, reads)
    return {
        name.decode("utf-8", "replace"): _pairs(value) if kind == b"zset" else value
        for name, kind, value in zip(names, kinds, values, strict=True)
    }


async def _pipelined(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for words in commands:
        pipeline.execute_command(*words)
    answers: list[Any] = await pipeline.execute()
    return answers


def _pairs(answer: Sequence[Any]) -> dict[bytes, float]:
    flat = (
        [w for pair in answer for w in pair] if answer and isinstance(answer[0], tuple) else answer
    )
    return {i: float(s) for i, s in zip(flat[::2], flat[1::2], strict=True)}


# The invariants of RELIABILITY §5.


async def invariants(redis: Redis, queue: str = "default") -> list[str]:
    """What is wrong with a queue, by the numbers I1-I8; empty when it is sound."""
    escaped = re.sub(r"([*?\[\]\\^])", r"\\\1", queue)
    found = await dump(redis, f"asynq:{{{escaped}}}:*")
    is_registered = bool(await ask(redis, "SISMEMBER", "asynq:queues", queue))
    return breaches(found, queue, is_registered=is_registered)


def breaches(found: Dump, queue: str, *, is_registered: bool) -> list[str]:
    """The same of a dump that has been made already."""
    prefix = key(queue, "")
    keys = {n.removeprefix(prefix): value for n, value in found.items() if n.startswith(prefix)}
    wrong = list(_wrong_types(keys))
    if not wrong:
        entries = list(_entries(keys, prefix))
        wrong += _unsound_entries(keys, queue, entries)
        wrong += _unsound_leases(keys)
        wrong += _unlisted_hashes(keys, {task_id for _, _, task_id in entries})
        wrong += _unsound_locks(keys)
        wrong += _unsound_groups(keys, prefix)
    if keys and not is_registered:
        wrong.append(f"I8 queue {queue} is not registered")
    return wrong


def _wrong_types(keys: Dump) -> Iterator[str]:
    kinds: dict[str, type] = dict.fromkeys(LISTS, list) | dict.fromkeys(
        (*SORTED_SETS, "lease"), dict
    )
    for name, kind in kinds.items():
        if not isinstance(keys.get(name, kind()), kind):
            yield f"I1 {name} is a {type(keys[name]).__name__}"
    for name, value in keys.items():
        if name.startswith("t:") and not isinstance(value, dict):
            yield f"I1 {name} is a {type(value).__name__}"


def _entries(keys: Dump, prefix: str) -> Iterator[tuple[str, str, bytes]]:
    """Each id that a container lists: the container, the state that goes with it, the id."""
    for name in (*LISTS, *SORTED_SETS):
        yield from ((name, name, task_id) for task_id in keys.get(name, ()))
    for name, members in keys.items():
        if name.startswith("g:"):
            yield from ((name, "aggregating", task_id) for task_id in members)


def _unsound_entries(
    keys: Dump, queue: str, entries: Sequence[tuple[str, str, bytes]]
) -> Iterator[str]:
    for container, state, task_id in entries:
        record = keys.get(f"t:{task_id.decode('utf-8', 'replace')}", {})
        if not _is_message_of(record.get(b"msg"), task_id, queue):
            yield f"I1 {task_id!r} of {container} has no message of its own"
        if record.get(b"state") != state.encode():
            yield f"I1 {task_id!r} of {container} has the state {record.get(b'state')!r}"
    for task_id, count in Counter(task_id for _, _, task_id in entries).items():
        if count > 1:
            places = [container for container, _, listed_id in entries if listed_id == task_id]
            yield f"I2 {task_id!r} is in {', '.join(places)}"


def _is_message_of(data: bytes | None, task_id: bytes, queue: str) -> bool:
    task = pb.TaskMessage()
    try:
        task.ParseFromString(data or b"")
    except DecodeError:
        return False
    return task.id.encode() == task_id and task.queue == queue and bool(task.type)


def _unsound_leases(keys: Dump) -> Iterator[str]:
    active, leased = set(keys.get("active", ())), set(keys.get("lease", ()))
    yield from (f"I3 {task_id!r} is active without a lease" for task_id in active - leased)
    yield from (f"I3 {task_id!r} is leased but not active" for task_id in leased - active)


def _unlisted_hashes(keys: Dump, ids: set[bytes]) -> Iterator[str]:
    names = {name.removeprefix("t:") for name in keys if name.startswith("t:")}
    yield from (
        f"I4 {name} is in no container"
        for name in names - {i.decode("utf-8", "replace") for i in ids}
    )


def _unsound_locks(keys: Dump) -> Iterator[str]:
    """An archived task keeps its lock until it expires, as in Go; a completed one must not."""
    for name, holder in keys.items():
        if name.startswith("unique:"):
            record = keys.get(f"t:{holder.decode()}")
            if record is None:
                yield f"I5 {name} is held by {holder!r}, which is gone"
            elif record.get(b"state") == b"completed":
                yield f"I5 {name} is held by {holder!r}, which is completed"
            elif _lock_of(record.get(b"msg")) != name:
                yield f"I5 {name} is held by {holder!r}, which knows nothing of it"


def _lock_of(data: bytes | None) -> str:
    """The lock that a message names, below the prefix of its queue."""
    task = pb.TaskMessage()
    try:
        task.ParseFromString(data or b"")
    except DecodeError:
        return ""
    return task.unique_key.removeprefix(key(task.queue, ""))


def _unsound_groups(keys: Dump, prefix: str) -> Iterator[str]:
    sets = {name.decode().removeprefix(prefix) for name in keys.get("aggregation_sets", ())}
    there = {name for name in keys if name.startswith("g:")}
    yield from (f"I7 {name} does not exist" for name in sets - there)
    unlisted = {name for name in there - sets if _SET_ID.search(name)}
    yield from (f"I7 {name} is in no aggregation_sets" for name in unlisted)
    groups = {f"g:{name.decode()}" for name in keys.get("groups", ())}
    waiting = there - sets - unlisted
    yield from (f"I6 {name} has members but is not in groups" for name in waiting - groups)
    yield from (f"I6 {name} is in groups without members" for name in groups - waiting)
