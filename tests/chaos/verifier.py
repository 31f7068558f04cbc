"""Looks at Redis once the load is over: has everything drained, is every queue sound, is anything left behind?"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisClusterException, RedisError

from tests.raw_redis import keys_of, raw_client
from tests.redis_state import LISTS, SORTED_SETS, ask, invariants, key, stored_message

#: Where a task still has something before it.
UNFINISHED = ("pending", "active", "scheduled", "retry")

#: What may stay of a queue after a drain (docs/wire.md), besides tasks that are kept: archived or completed.
_KEPT = re.compile(
    r"asynq:queues|asynq:(servers|workers)|asynq:\{[^}]*\}:("
    r"(processed|failed)(:\d{4}-\d\d-\d\d)?|archived|completed|t:.*|unique:.*)"
    r"|asynqpy:\{[^}]*\}:quarantine(:.*)?"
)


#: The length of each of KEYS, by the command of the same place in ARGV.
_SIZES = """
local sizes = {}
for place, key in ipairs(KEYS) do
  sizes[place] = redis.call(ARGV[place], key)
end
return sizes
"""


@dataclass(slots=True)
class Verdict:
    """What Redis holds at the end.

    ``left``: tasks that are still on their way, by container: stuck. ``archived``: id -> error. ``unsound``: breaches
    of the invariants I1-I8. ``locks``: unique locks of tasks that are gone. ``keys``: those that nothing accounts for.
    """

    drained: bool = False
    drain_seconds: float = 0.0
    left: dict[str, list[str]] = field(default_factory=dict)
    archived: dict[str, str] = field(default_factory=dict)
    unsound: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def stuck(self) -> int:
        return sum(map(len, self.left.values()))


async def drain(url: str, queues: Sequence[str], within: float) -> float | None:
    """Wait until no task of the queues has anything before it; the seconds it took, if it did."""
    began = time.monotonic()
    async with raw_client(url) as redis:
        while time.monotonic() - began < within:
            try:
                if not any(await _sizes(redis, queues)):
                    return time.monotonic() - began
            except (RedisError, RedisClusterException):
                pass  # Redis itself may be the patient
            await asyncio.sleep(0.1)
    return None


async def verify(url: str, queues: Sequence[str]) -> Verdict:
    """Inspect a Redis whose workers have all stopped."""
    verdict = Verdict()
    async with raw_client(url) as redis:
        for queue in queues:
            for container in UNFINISHED:
                if ids := await _ids(redis, queue, container):
                    verdict.left[f"{queue}:{container}"] = ids
            for task_id in await _ids(redis, queue, "archived"):
                verdict.archived[task_id] = (await stored_message(redis, task_id, queue)).error_msg
            verdict.unsound += [f"{queue}: {breach}" for breach in await invariants(redis, queue)]
        verdict.locks = [breach for breach in verdict.unsound if " I5 " in breach]
        verdict.keys = await _unaccounted(redis, verdict.left)
    return verdict


async def _sizes(redis: Redis, queues: Sequence[str]) -> list[int]:
    """Those of a queue at one instant: a task that moves on meanwhile would be seen in neither place."""
    sizes = []
    for queue in queues:
        places = [key(queue, container) for container in UNFINISHED]
        commands = ["LLEN" if container in LISTS else "ZCARD" for container in UNFINISHED]
        sizes += await ask(redis, "EVAL", _SIZES, len(places), *places, *commands)
    return sizes


async def _ids(redis: Redis, queue: str, container: str) -> list[str]:
    assert container in (*LISTS, *SORTED_SETS)
    command = "LRANGE" if container in LISTS else "ZRANGE"
    return [i.decode() for i in await ask(redis, command, key(queue, container), 0, -1)]


async def _unaccounted(redis: Redis, left: Mapping[str, list[str]]) -> list[str]:
    """Keys without an end that neither the documentation nor a stuck task explains."""
    in_use = {key(*place.rsplit(":", 1)) for place in left}
    found = []
    for name in await keys_of(redis):
        text = name.decode(errors="replace")
        explained = _KEPT.fullmatch(text) or text in in_use or (left and text.endswith(":lease"))
        if not explained and await ask(redis, "TTL", name) < 0:
            found.append(text)
    return found
