"""What the scripts of a search answer that no damage of ``tests/damage.py`` shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker.connection import Connection
from asynqpy.broker.findings import Problem
from asynqpy.broker.maintenance import set_aside_wrong_types_call
from asynqpy.broker.messages import TaskState
from asynqpy.broker.reconciling import (
    Suspect,
    digest,
    readable,
    reclaim_set_call,
    reconcile_call,
    reindex_groups_call,
    release_leaked_locks_call,
    survey_list_call,
    survey_sorted_call,
    survey_tasks_call,
    suspect_of,
)
from asynqpy.broker.scripts import Runner
from asynqpy.errors import BrokerError
from tests.damage import BAD, GARBAGE, SET, bad
from tests.fake_clock import FakeClock
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    listed,
    lock_key,
    message,
    messages,
    scores,
    seed_active,
    seed_aggregating,
    seed_archived,
    seed_completed,
    seed_many,
    seed_pending,
    seed_retry,
    seed_scheduled,
    states,
    task_hash,
    task_key,
)

QUARANTINE = "asynqpy:{default}:quarantine"


@pytest.fixture
async def runner(redis_url: str) -> AsyncIterator[Runner]:
    connection = Connection.open(redis_url)
    yield Runner(connection)
    await connection.close()


async def reconcile(
    runner: Runner, clock: FakeClock, *suspects: Suspect, heal: bool = True
) -> list[tuple[str, str]]:
    findings = await runner.run(reconcile_call("default", suspects, clock, heal=heal))
    return [(str(finding.problem), finding.repair) for finding in findings]


# reconcile


async def test_batch_of_suspects_is_seen_to_one_by_one(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_many(redis, "pending", dict.fromkeys([f"t{n}" for n in range(250)], 0.0))
    await seed_many(redis, "retry", dict.fromkeys([f"r{n}" for n in range(250)], 1.0))
    await ask(redis, "DEL", key("default", "retry"))
    suspects = [Suspect(f"{kind}{n}".encode()) for kind in "tr" for n in range(250)]
    found = await reconcile(runner, clock, *suspects)
    assert found == [("orphan", "put in pending")] * 250
    assert await invariants(redis) == []


async def test_a_sound_task_is_no_finding_whatever_was_suspected(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_pending(redis, bad())
    before = await dump(redis)
    suspects = [
        Suspect(b"bad"),
        Suspect(b"bad", in_pending=True, sha=digest(b"of an earlier message")),
        Suspect(b"bad", state=b"archived", score=1, group=b"g", names=(b"x", b"y")),
        Suspect(b"nobody"),
    ]
    assert await reconcile(runner, clock, *suspects) == []
    assert await dump(redis) == before


@pytest.mark.parametrize("spoil", ["DEL", "HDEL", "HSET"])
async def test_unreadable_task_in_the_hands_of_a_worker_is_left_to_it(
    runner: Runner, redis: Redis, clock: FakeClock, spoil: str
) -> None:
    await seed_active(redis, bad(), lease=clock.now() + 30.5)
    rest = {"DEL": (), "HDEL": ("msg",), "HSET": ("msg", GARBAGE)}[spoil]
    await ask(redis, spoil, BAD, *rest)
    before = await dump(redis)
    ((_, repair),) = await reconcile(runner, clock, Suspect(b"bad", sha=digest(GARBAGE)))
    assert repair == "left"
    assert await dump(redis) == before
    clock.advance(61)
    ((_, repair),) = await reconcile(runner, clock, Suspect(b"bad", sha=digest(GARBAGE)))
    assert repair in {"removed", "set aside"}
    assert await invariants(redis) == []


async def test_record_that_is_set_aside_keeps_its_bytes_beside_an_earlier_one(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    for text in (b"\xff first", b"\xff second"):
        await seed_pending(redis, bad(unique_key=lock_key()))
        await ask(redis, "HSET", BAD, "msg", text)
        await reconcile(runner, clock, Suspect(b"bad", in_pending=True, sha=digest(text)))
    assert await ask(redis, "HGET", f"{QUARANTINE}:bad", "msg") == b"\xff first"
    assert await ask(redis, "HGET", f"{QUARANTINE}:bad:2", "msg") == b"\xff second"
    assert await ask(redis, "ZRANGE", QUARANTINE, 0, -1) == [b"bad", b"bad:2"]
    assert await invariants(redis) == []


async def test_message_that_was_repaired_meanwhile_is_let_alone(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_pending(redis, bad())
    suspect = Suspect(b"bad", in_pending=True, sha=digest(GARBAGE))
    assert await reconcile(runner, clock, suspect) == []


async def test_archived_orphan_is_listed_while_there_is_room_else_trimmed_with_its_lock(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_archived(redis, message("x", unique_key=lock_key()), message("y"), at=1)
    await ask(redis, "DEL", key("default", "archived"))
    await seed_many(redis, "archived", {f"a{n}": n for n in range(9_999)})
    suspects = [Suspect(i, state=b"archived", score=7) for i in (b"y", b"x")]
    assert await reconcile(runner, clock, *suspects) == [
        ("orphan", "put in archived"),
        ("orphan", "deleted"),
    ]
    assert (await scores(redis, "archived"))["y"] == 7
    assert await states(redis, "x") == [""]
    assert not await ask(redis, "EXISTS", lock_key())


async def test_orphan_whose_state_is_another_than_was_seen_waits_for_the_next_look(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_completed(redis, bad(), until=1)
    await ask(redis, "DEL", key("default", "completed"))
    before = await dump(redis)
    assert await reconcile(runner, clock, Suspect(b"bad", state=b"archived", score=1)) == []
    assert await dump(redis) == before


async def test_task_put_back_to_pending_is_next_to_run_and_its_wait_begins(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_pending(redis, message("p"))
    await seed_retry(redis, bad(), at=1)
    await ask(redis, "DEL", key("default", "retry"))
    await reconcile(runner, clock, Suspect(b"bad"))
    assert await listed(redis, "pending") == ["bad", "p"]
    assert (await task_hash(redis, "bad"))["pending_since"] == str(clock.now_ns()).encode()


async def test_of_two_copies_in_pending_the_next_to_run_stays(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_pending(redis, bad(), message("p"))
    await ask(redis, "LPUSH", key("default", "pending"), "bad")
    await reconcile(runner, clock, Suspect(b"bad", in_pending=True))
    assert await listed(redis, "pending") == ["bad", "p"]


async def test_task_of_an_aggregation_set_at_work_is_no_orphan(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    name = key("default", f"g:g:{SET}")
    await ask(redis, "RENAME", key("default", "g:g"), name)
    await ask(redis, "ZADD", key("default", "aggregation_sets"), clock.now() + 60, name)
    assert await reconcile(runner, clock, Suspect(b"bad")) == []


async def test_container_of_the_wrong_type_fails_before_anything_is_written(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_retry(redis, bad(), at=1)
    await ask(redis, "ZREM", key("default", "retry"), "bad")
    await ask(redis, "SET", key("default", "completed"), "x")
    before = await dump(redis)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await reconcile(runner, clock, Suspect(b"bad"))
    assert await dump(redis) == before
    assert await reconcile(runner, clock, Suspect(b"bad"), heal=False) == [
        ("orphan", "put in pending")
    ]


async def test_full_redis_lets_tasks_be_put_back(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_retry(redis, bad(), at=1)
    await ask(redis, "ZREM", key("default", "retry"), "bad")
    await ask(redis, "CONFIG", "SET", "maxmemory", 1)
    try:
        assert await reconcile(runner, clock, Suspect(b"bad")) == [("orphan", "put in pending")]
    finally:
        await ask(redis, "CONFIG", "SET", "maxmemory", 0)


async def test_id_and_group_need_not_be_text(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    raw = b"\xfe\xff"
    await ask(redis, "ZADD", key("default", "g:").encode() + raw, 1, raw)
    assert await reconcile(runner, clock, Suspect(raw, names=(raw,))) == [("no_record", "removed")]
    assert not await dump(redis, "asynq:*")


# survey_list, survey_sorted_set, survey_tasks


async def test_survey_of_a_list_answers_a_page_and_what_does_not_fit(
    runner: Runner, redis: Redis
) -> None:
    await seed_many(redis, "pending", {f"t{n}": 0 for n in range(600)})
    await ask(redis, "DEL", task_key("default", "t599"))
    await ask(redis, "HSET", task_key("default", "t1"), "state", "active")
    call = survey_list_call("default", key("default", "pending"), TaskState.PENDING, 0)
    page = await runner.run(call)
    assert (len(page.ids), page.wrong) == (500, [b"t599"])
    call = survey_list_call("default", key("default", "pending"), TaskState.PENDING, 500)
    page = await runner.run(call)
    assert (len(page.ids), page.wrong) == (100, [b"t1"])


async def test_survey_of_a_sorted_set_skips_what_has_left_it(runner: Runner, redis: Redis) -> None:
    await seed_scheduled(redis, message("s"), bad(), at=1)
    await ask(redis, "HDEL", BAD, "msg")
    ids = [b"s", b"bad", b"gone"]
    call = survey_sorted_call("default", key("default", "scheduled"), TaskState.SCHEDULED, ids)
    page = await runner.run(call)
    assert (page.ids, page.wrong) == ([b"s", b"bad"], [b"bad"])


async def test_survey_of_tasks_tells_which_lists_to_look_into(runner: Runner, redis: Redis) -> None:
    await seed_pending(redis, message("p"))
    await seed_active(redis, message("a"), message("lost"), lease=1)
    await ask(redis, "ZREM", key("default", "lease"), "lost")
    await seed_aggregating(redis, message("g", group_key="g"), at=1)
    await seed_aggregating(redis, message("h", group_key="h"), at=1)
    await ask(redis, "DEL", key("default", "g:h"))
    ids = [b"p", b"a", b"lost", b"g", b"h", b"gone"]
    page = await runner.run(survey_tasks_call("default", ids))
    assert page.wrong == [b"lost"]
    assert page.pending == [(b"p", b"1700000000000000000")]
    assert page.aggregating == [b"h"]


# reindex_groups, reclaim_set


async def test_group_whose_name_looks_like_a_set_is_known_by_its_members(
    runner: Runner, redis: Redis
) -> None:
    await seed_aggregating(redis, bad(group_key=f"order:{SET}"), at=1)
    await ask(redis, "DEL", key("default", "groups"))
    names = [f"order:{SET}".encode()]
    findings, sets = await runner.run(reindex_groups_call("default", names, heal=True))
    assert [finding.problem for finding in findings] == [Problem.UNINDEXED_GROUP]
    assert sets == []
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == {names[0]}


async def test_set_is_no_group(runner: Runner, redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    await ask(redis, "RENAME", key("default", "g:g"), key("default", f"g:g:{SET}"))
    call = reindex_groups_call("default", [f"g:{SET}".encode()], heal=True)
    assert await runner.run(call) == ([], [f"g:{SET}".encode()])


async def test_set_is_reclaimed_in_portions_with_its_scores(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    tasks = messages(600, group_key="g")
    await seed_aggregating(redis, *tasks, at=5)
    await ask(redis, "RENAME", key("default", "g:g"), key("default", f"g:g:{SET}"))
    call = reclaim_set_call("default", f"g:{SET}".encode(), clock.now(), heal=True)
    answers = [await runner.run(call) for _ in range(3)]
    assert [(a.problem, a.moved, a.left) for a in answers] == [
        (Problem.STALE_SET, 500, 100),
        (Problem.STALE_SET, 100, 0),
        (None, 0, 0),
    ]
    assert set((await scores(redis, "g:g")).values()) == {5}
    assert await invariants(redis) == []


async def test_set_is_left_to_its_aggregator_until_30_s_past_the_deadline(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    name = key("default", f"g:g:{SET}")
    await ask(redis, "RENAME", key("default", "g:g"), name)
    await ask(redis, "ZADD", key("default", "aggregation_sets"), clock.now() - 29, name)
    call = reclaim_set_call("default", f"g:{SET}".encode(), clock.now(), heal=True)
    assert (await runner.run(call)).problem is None
    call = reclaim_set_call("default", f"g:{SET}".encode(), clock.now() + 1, heal=True)
    assert (await runner.run(call)).problem is Problem.STALE_SET


# release_leaked_locks, set_aside_wrong_types


async def test_lock_of_a_task_that_can_still_run_or_is_archived_stays(
    runner: Runner, redis: Redis
) -> None:
    locks = [lock_key(name=name) for name in ("p:", "x:", "c:", "gone:", "list:")]
    await seed_pending(redis, message("p", unique_key=locks[0]))
    await seed_archived(redis, message("x", unique_key=locks[1]), at=1)
    await seed_completed(redis, message("c", unique_key=locks[2]), until=1)
    await ask(redis, "SET", locks[3], "gone")
    await ask(redis, "RPUSH", locks[4], "p")
    call = release_leaked_locks_call("default", [it.encode() for it in locks], heal=True)
    answer = await runner.run(call)
    assert [(f.subject, f.detail) for f in answer.findings] == [
        ("unique:c:", "held by c"),
        ("unique:gone:", "held by gone"),
    ]
    assert answer.wrong_types == [locks[4].encode()]
    assert [await ask(redis, "EXISTS", it) for it in locks] == [1, 1, 0, 0, 1]


async def test_key_is_set_aside_under_its_whole_name(runner: Runner, redis: Redis) -> None:
    group = key("default", "g:a:b")
    await ask(redis, "SET", group, "x")
    assert await runner.run(set_aside_wrong_types_call("default", {group.encode(): "zset"})) == [
        "key:g:a:b"
    ]
    assert await ask(redis, "GET", f"{QUARANTINE}:key:g:a:b") == b"x"


# Values


def test_record_says_where_its_task_belongs() -> None:
    def of(state: bytes, **fields: Any) -> Suspect:
        return suspect_of("default", b"bad", bad(**fields).SerializeToString(), state)

    assert of(b"archived", last_failed_at=7).score == 7
    assert of(b"archived").score is None
    assert of(b"completed", completed_at=7, retention=3).score == 10
    assert of(b"aggregating", group_key="g").group == b"g"
    assert suspect_of("default", b"bad", GARBAGE, b"pending").sha == digest(GARBAGE)


def test_message_of_another_task_or_queue_is_none_of_this_one() -> None:
    data = bad().SerializeToString()
    assert readable("default", b"bad", data) is not None
    assert readable("low", b"bad", data) is None
    assert readable("default", b"b", data) is None
    assert readable("default", b"bad", b"") is None


def test_suspect_that_was_seen_twice_is_one() -> None:
    one = Suspect(b"t", sha="x", names=(b"a",))
    other = Suspect(b"t", in_pending=True, state=b"archived", score=5, names=(b"a", b"b"))
    for merged in (one.merged(other), other.merged(one)):
        assert (merged.sha, merged.in_pending, merged.score) == ("x", True, 5)
        assert set(merged.names) == {b"a", b"b"}
