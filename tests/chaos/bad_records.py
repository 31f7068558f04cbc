"""Malformed records: what no client would write, and what Redis may hold all the same after faults and bad tools.

Each is made from a sound message of its own id, with raw commands, so that no code of asynqpy can hide a mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from asynqpy.broker import asynq_pb2 as pb
from tests.redis_state import Command, ask, key, message, task_key

CONTAINERS = ("pending", "active", "scheduled", "retry", "archived")

#: Servers look at these containers by themselves, and set aside what they cannot read.
SERVED = ("pending", "active", "scheduled", "retry")

_CHUNK = 1_000  # records written in one pipeline


@dataclass(frozen=True, slots=True)
class BadRecord:
    """``kept`` is what must still be readable at the end, by the command that read it; None where there was nothing."""

    id: str
    kind: str
    container: str
    kept: bytes | None
    commands: Sequence[Command]


def bad_records(count: int, queue: str, rng: random.Random, *, now: float) -> Iterator[BadRecord]:
    """Records of every kind in every container, in turn. ``now`` (unix s) makes them due and their leases expired."""
    kinds = list(_KINDS)
    for n in range(count):
        kind = kinds[n % len(kinds)]
        container = CONTAINERS[n // len(kinds) % len(CONTAINERS)]
        yield _bad_record(f"bad-{kind}-{n}", kind, container, queue, rng, now)


def _bad_record(
    task_id: str, kind: str, container: str, queue: str, rng: random.Random, now: float
) -> BadRecord:
    sound = message(task_id, queue=queue, type="chaos", payload=rng.randbytes(rng.randint(1, 200)))
    kept, commands = _KINDS[kind](task_key(queue, task_id), container, sound, rng)
    entries = _entries(task_id, container, queue, now - rng.uniform(60, 120))
    return BadRecord(task_id, kind, container, kept, [*commands, *entries])


def _entries(task_id: str, container: str, queue: str, at: float) -> Iterator[Command]:
    if container in ("pending", "active"):
        yield ("LPUSH", key(queue, container), task_id)
    if container == "active":
        yield ("ZADD", key(queue, "lease"), int(at), task_id)
    elif container != "pending":
        yield ("ZADD", key(queue, container), int(at), task_id)


Made = tuple[bytes | None, list[Command]]


def _truncated(name: str, state: str, sound: pb.TaskMessage, rng: random.Random) -> Made:
    data = sound.SerializeToString()
    while _decodes(data):
        data = sound.SerializeToString()[: rng.randrange(1, len(data))]
    return data, [("HSET", name, "msg", data, "state", state)]


def _decodes(data: bytes) -> bool:
    try:
        pb.TaskMessage().ParseFromString(data)
    except DecodeError:
        return False
    return True


def _bad_utf8(name: str, state: str, sound: pb.TaskMessage, _: random.Random) -> Made:
    data = sound.SerializeToString().replace(b"chaos", b"\xff\xfe\xc3\x28\x80")
    return data, [("HSET", name, "msg", data, "state", state)]


def _without_hash(*_: object) -> Made:
    return None, []


def _bare(name: str, state: str, *_: object) -> Made:
    return None, [("HSET", name, "state", state)]


def _without_bytes(name: str, state: str, *_: object) -> Made:
    return None, [("HSET", name, "msg", b"", "state", state)]


def _of_another(name: str, state: str, sound: pb.TaskMessage, _: random.Random) -> Made:
    sound.id = f"not-{sound.id}"
    data = sound.SerializeToString()
    return data, [("HSET", name, "msg", data, "state", state)]


def _noise(name: str, state: str, _: object, rng: random.Random) -> Made:
    data = b"\xff" + rng.randbytes(rng.randint(1, 300))
    return data, [("HSET", name, "msg", data, "state", state)]


def _string(name: str, _state: str, sound: pb.TaskMessage, _: random.Random) -> Made:
    data = sound.SerializeToString()
    return data, [("SET", name, data)]


def _list(name: str, _state: str, sound: pb.TaskMessage, _: random.Random) -> Made:
    data = sound.SerializeToString()
    return data, [("RPUSH", name, data)]


_KINDS: dict[str, Callable[[str, str, pb.TaskMessage, random.Random], Made]] = {
    "truncated": _truncated,
    "bad-utf8": _bad_utf8,
    "no-hash": _without_hash,
    "bare": _bare,
    "no-bytes": _without_bytes,
    "of-another": _of_another,
    "noise": _noise,
    "string": _string,
    "list": _list,
}


async def seed(redis: Redis, records: Sequence[BadRecord]) -> None:
    for start in range(0, len(records), _CHUNK):
        pipeline = redis.pipeline(transaction=False)
        for record in records[start : start + _CHUNK]:
            for words in record.commands:
                pipeline.execute_command(*words)
        await pipeline.execute()


async def remove_unserved(redis: Redis, queue: str, records: Sequence[BadRecord]) -> None:
    """Take away what stands where no server looks, so that the rest can be verified."""
    for record in records:
        if record.container not in SERVED:
            await ask(redis, "ZREM", key(queue, record.container), record.id)
            await ask(redis, "DEL", task_key(queue, record.id))


async def lost_bytes(redis: Redis, queue: str, records: Sequence[BadRecord]) -> list[str]:
    """Ids of records whose bytes are neither in the quarantine nor where they were."""
    lost = []
    for record in records:
        names = [f"asynqpy:{{{queue}}}:quarantine:{record.id}", task_key(queue, record.id)]
        found = [await _bytes_of(redis, name) for name in names]
        if record.kept is not None and record.kept not in found:
            lost.append(record.id)
    return lost


async def _bytes_of(redis: Redis, name: str) -> Any:
    kind = await ask(redis, "TYPE", name)
    reads = {b"hash": ("HGET", name, "msg"), b"string": ("GET", name), b"list": ("LINDEX", name, 0)}
    return await ask(redis, *reads[kind]) if kind in reads else None
