from __future__ import annotations

import random
from collections import Counter

from redis.asyncio import Redis

from tests.chaos.bad_records import (
    CONTAINERS,
    BadRecord,
    bad_records,
    lost_bytes,
    remove_unserved,
    seed,
)
from tests.redis_state import ask, dump, invariants, key, task_key

NOW = 1_700_000_000.0


def records(count: int = 90) -> list[BadRecord]:
    return list(bad_records(count, "default", random.Random(1), now=NOW))


def test_every_kind_is_in_every_container() -> None:
    counts = Counter((record.kind, record.container) for record in records())
    assert len(counts) == 9 * len(CONTAINERS)
    assert set(counts.values()) == {2}


async def test_no_record_is_sound(redis: Redis) -> None:
    bad = records()
    await seed(redis, bad)
    breaches = " ".join(await invariants(redis))
    # A key of the wrong type is told by its own name, and hides what else there is to say.
    wrong_types = [r.id for r in bad if r.kind in ("string", "list")]
    assert all(f"t:{task_id} " in breaches for task_id in wrong_types)
    await ask(redis, "DEL", *(task_key("default", task_id) for task_id in wrong_types))
    breaches = " ".join(await invariants(redis))
    assert all(
        f"{record.id.encode()!r} of {record.container} has no message" in breaches for record in bad
    )


async def test_bytes_are_kept_in_the_quarantine_or_where_they_were(redis: Redis) -> None:
    bad = [record for record in records() if record.kept is not None]
    assert await lost_bytes(redis, "default", bad) == [record.id for record in bad]
    await seed(redis, bad)
    assert await lost_bytes(redis, "default", bad) == []
    for record in bad:
        await ask(
            redis,
            "RENAME",
            task_key("default", record.id),
            f"asynqpy:{{default}}:quarantine:{record.id}",
        )
    assert await lost_bytes(redis, "default", bad) == []


async def test_what_no_server_looks_at_can_be_removed(redis: Redis) -> None:
    archived = [record for record in records() if record.container == "archived"]
    await seed(redis, archived)
    await remove_unserved(redis, "default", archived)
    assert not await ask(redis, "EXISTS", key("default", "archived"))
    assert await dump(redis) == {}
