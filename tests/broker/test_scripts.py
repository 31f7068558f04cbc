from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from asynqpy.broker import keys
from asynqpy.broker.admin.listing import Record, list_tasks_call
from asynqpy.broker.admin.moving import Move, Target, move_tasks_call
from asynqpy.broker.admin.queues import memory_usage_call, queue_info_call, remove_queue_call
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import Connection
from asynqpy.broker.exchange import Told
from asynqpy.broker.messages import TaskState
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry
from asynqpy.broker.reconciling import (
    Suspect,
    reclaim_set_call,
    reconcile_call,
    reindex_groups_call,
    release_leaked_locks_call,
    survey_list_call,
    survey_sorted_call,
    survey_tasks_call,
)
from asynqpy.broker.scripts import Call, Runner, command, is_wrong_type, load, nothing, script_call
from asynqpy.clock import instant
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests import single
from tests.broker.conftest import Deployment
from tests.broker.factories import SERVER, WORKER, lease_on, lease_score, new_task, settlement
from tests.fake_clock import FakeClock
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.redis_proxy import RedisProxy

OUTCOMES: list[Outcome] = [Done(), Complete(), Retry(1, "no"), Archive("no"), Requeue()]


def script_names() -> set[str]:
    folder = resources.files("asynqpy.broker").joinpath("lua")
    found = {f"{room}{it.name}" for room in ("", "admin/") for it in (folder / room).iterdir()}
    return {name.removesuffix(".lua") for name in found if name.endswith(".lua")}


async def call_every_script(broker: Broker, clock: FakeClock, redis: Redis) -> None:
    """Each with two tasks at least, where it takes any number."""
    tasks = state.messages(2 * len(OUTCOMES) + 1)
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    await broker.enqueue([new_task("a"), new_task("b")])
    await broker.extend_lease([lease_on(task, clock) for task in tasks])
    await broker.write_result(lease_on(tasks[0], clock), b"42")
    await broker.settle(
        [settlement(t, o, clock.now()) for t, o in zip(tasks, OUTCOMES * 2, strict=False)]
    )
    await state.ask(redis, "LPUSH", state.key("default", "pending"), "ghost", "phantom")
    await state.ask(redis, "SET", state.key("low", "pending"), "of the wrong type")
    grants = broker.grant(["default", "low"])
    await broker.turn([], {"default": 9, "low": 9}, grants)
    clock.advance(1)
    for _ in range(2):  # by the score that was given out, and by that of the last extension too
        await broker.extend_grants(grants)
        clock.advance(1)
    await broker.requeue_grants(grants)
    await broker.dequeue({"default": 9})
    await broker.forward(["default"])
    await broker.silent_leases(["default"], clock.now() + 60, clock.now())
    await broker.delete_expired_completed(["default"])
    await broker.write_server_state(SERVER, [WORKER, WORKER], 10)
    await Runner(broker._connection).run_all([*calls_of_a_search(clock), *calls_of_admin(clock)])


def calls_of_a_search(clock: FakeClock) -> Iterator[Call[Any]]:
    ids, locks = [b"a", b"b"], [keys.unique("default", t, None).encode() for t in ("a", "b")]
    yield survey_list_call("default", keys.pending("default"), TaskState.PENDING, 0)
    yield survey_sorted_call("default", keys.retry("default"), TaskState.RETRY, ids)
    yield survey_tasks_call("default", ids)
    suspects = [Suspect(b"a"), Suspect(b"b", names=(b"g", b"h"))]
    yield reconcile_call("default", suspects, clock, heal=True)
    yield reindex_groups_call("default", [b"g", b"h"], heal=True)
    yield reclaim_set_call("default", b"g:1", clock.now(), heal=True)
    yield release_leaked_locks_call("default", locks, heal=True)


def calls_of_admin(clock: FakeClock) -> Iterator[Call[Any]]:
    yield queue_info_call("default", instant(clock.now()))
    yield memory_usage_call("default")
    read = [Record(it, 0, None, None, None, None, None, it.encode(), b"", b"") for it in ("a", "b")]
    yield list_tasks_call("default", TaskState.PENDING, "", first=9, count=9, after=read)
    yield move_tasks_call("default", Target.ARCHIVED, [Move("a"), Move("b")], clock)
    yield remove_queue_call("default")


async def test_closed_connection_says_so_and_is_not_opened_again(deployment: Deployment) -> None:
    broker = Broker(deployment.url)
    await broker.ping()
    await broker.close()
    await broker.close()
    for call in (broker.ping(), broker.enqueue([new_task("a")]), broker.sync_clock()):
        with pytest.raises(BrokerError, match=r"^the connection to Redis at .* is closed$"):
            await call
    assert not any("lib-name=redis-py(asyncio" in str(c) for c in deployment.ask_all("CLIENT LIST"))


async def test_client_of_the_caller_stays_open(redis: Redis) -> None:
    broker = Broker(redis)
    await broker.close()
    await broker.ping()


@pytest.fixture
async def calls(
    broker: Broker, clock: FakeClock, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[tuple[Any, ...]]]:
    """The words that are sent for each script: digest, number of keys, keys, arguments."""
    seen: dict[str, list[tuple[Any, ...]]] = {}
    run_all = Runner.run_all

    async def spy(
        runner: Runner,
        batch: Sequence[Call[Any]],
        told: Told | None = None,
        *,
        patience: float = 0.0,
    ) -> list[Any]:
        for call in batch:
            if call.script is not None:
                seen.setdefault(call.script.name, []).append(call.words[1:])
        return await run_all(runner, batch, told, patience=patience)

    monkeypatch.setattr(Runner, "run_all", spy)
    await call_every_script(broker, clock, redis)
    return seen


def header(name: str) -> str:
    return "\n".join(line for line in load(name).text.splitlines() if line.startswith("--"))


def documented_keys(name: str) -> int | None:
    """How many keys the header lists; None when it takes any number."""
    keys = header(name).partition("ARGV")[0]
    numbers = re.findall(r"\[(\d+)\]", keys)
    return int(numbers[-1]) if numbers else None


def documented_arguments(name: str) -> tuple[int, int]:
    """How many arguments come first, and how many for each task."""
    arguments = header(name).partition("ARGV")[2].partition("Returns")[0]
    numbers = re.findall(r"\[(\d+)\]", arguments)
    per_task = re.search(r"(\d+) per", arguments)
    return int(numbers[-1]) if numbers else 0, int(per_task[1]) if per_task else 0


async def test_every_script_is_called_with_the_keys_that_it_documents(
    calls: dict[str, list[tuple[Any, ...]]],
) -> None:
    assert calls.keys() == script_names()
    for name, sent in calls.items():
        for words in sent:
            assert words[1] == (documented_keys(name) or words[1]), name
            assert all(isinstance(key, str | bytes) for key in words[2 : 2 + words[1]]), name


async def test_every_script_is_called_with_the_arguments_that_it_documents(
    calls: dict[str, list[tuple[Any, ...]]],
) -> None:
    for name, sent in calls.items():
        first, per_task = documented_arguments(name)
        for words in sent:
            rest = len(words) - 2 - words[1] - first
            assert rest % per_task == 0 if per_task else rest == 0, name
        assert per_task == 0 or len(sent[0]) - 2 - sent[0][1] - first >= 2 * per_task, name


def hash_tag(key: str | bytes) -> str:
    """What decides about the slot of a key in a cluster."""
    name = key if isinstance(key, str) else key.decode()
    tagged = re.search(r"\{(.+?)\}", name)
    return tagged[1] if tagged else name


async def test_all_keys_of_a_script_are_of_one_slot(
    calls: dict[str, list[tuple[Any, ...]]],
) -> None:
    for name, sent in calls.items():
        for words in sent:
            assert len({hash_tag(key) for key in words[2 : 2 + words[1]]}) == 1, name


@pytest.mark.parametrize("name", sorted(script_names()))
def test_a_script_uses_no_key_beyond_those_that_it_documents(name: str) -> None:
    used = [int(number) for number in re.findall(r"KEYS\[(\d+)\]", load(name).text)]
    # One that takes any number has one at least.
    assert max(used, default=0) <= (documented_keys(name) or 1)


# A Redis that does not know the scripts.


@single.COUNTED
async def test_scripts_that_redis_forgot_are_sent_once_more_inside_a_mixed_pipeline(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await broker.enqueue([new_task("a")])
    (held,) = (await broker.dequeue({"default": 1})).deliveries
    await broker.enqueue([new_task("b"), new_task("c", queue="low")])
    await state.ask(redis, "SCRIPT", "FLUSH")
    await state.ask(redis, "CONFIG", "RESETSTAT")
    done = settlement(state.message("a"), Done(), clock.now(), held.lease.fence)
    turn = await broker.turn([done], {"default": 5, "low": 5})
    assert turn.settled == [True]
    assert [delivery.message.id for delivery in turn.deliveries] == ["b", "c"]
    statistics = await state.ask(redis, "INFO", "commandstats")
    assert statistics["cmdstat_eval"]["calls"] == 3
    assert await state.counter(redis, "processed") == 1


async def test_known_commands_beside_an_unknown_script_are_not_repeated(
    broker: Broker, redis: Redis
) -> None:
    runner = Runner(broker._connection)
    count = command("INCR", "count", read=int)
    script = script_call("dequeue", ["{q}a", "{q}b", "{q}c", "{q}d"], ["{q}", 1, "1.5"], list)
    assert await runner.run_all([count, script, count]) == [1, [0, [], [], []], 2]


async def test_every_shape_of_redis_learns_the_scripts(
    deployment: Deployment, clock: FakeClock
) -> None:
    broker = Broker(deployment.url, clock)
    queues = ["default", "critical", "low"]
    try:
        tasks = [new_task(f"t{n}", queue=queues[n % 3]) for n in range(9)]
        assert await broker.enqueue(tasks) == [None] * 9
        turn = await broker.dequeue(dict.fromkeys(queues, 9))
        assert {d.message.id for d in turn.deliveries} == {f"t{n}" for n in range(9)}
    finally:
        await broker.close()


# Errors.


async def use(url: str) -> None:
    broker = Broker(url)
    try:
        await broker.ping()
    finally:
        await broker.close()


async def test_a_refused_connection_says_where_redis_should_be() -> None:
    port = free_port()
    with pytest.raises(BrokerUnavailableError, match=rf"{HOST}:{port}/0 could not be reached"):
        await use(f"redis://{HOST}:{port}/0")


@pytest.fixture
def ann(redis_server: RedisProcess, redis_url: str) -> Any:
    """A user who may do everything but run scripts."""
    redis_server.ask("ACL", "SETUSER", "ann", "on", ">s3cret", "~*", "&*", "+@all", "-evalsha")
    yield f"redis://ann:s3cret@{redis_server.address}/0"
    redis_server.ask("ACL", "DELUSER", "ann")


@single.ITS_SETTINGS
async def test_a_wrong_password_is_told_without_being_shown(ann: str) -> None:
    await use(ann)
    with pytest.raises(BrokerAuthError) as caught:
        await use(ann.replace("s3cret", "guess"))
    assert "guess" not in str(caught.value)
    assert "check user, password and ACL" in str(caught.value)


@single.ITS_SETTINGS
async def test_a_command_that_the_acl_forbids_is_told_as_such(ann: str) -> None:
    broker = Broker(ann)
    (answer,) = await broker.enqueue([new_task()])
    await broker.close()
    assert isinstance(answer, BrokerAuthError)


def test_a_password_that_redis_wants_and_was_not_given_is_told_as_such() -> None:
    error = runner().translate(redis_errors.ResponseError("NOAUTH Authentication required."))
    assert isinstance(error, BrokerAuthError)


async def test_a_replica_that_refuses_to_write_is_unavailable(clock: FakeClock) -> None:
    with start_redis("--replicaof", HOST, str(free_port())) as replica:
        broker = Broker(replica.url, clock)
        with pytest.raises(BrokerUnavailableError, match="read only replica"):
            await broker.enqueue([new_task()])
        await broker.close()


def runner() -> Runner:
    return Runner(Connection.open("redis://localhost:6379/0"))


def test_only_a_complaint_about_types_is_one() -> None:
    assert is_wrong_type(BrokerError("Redis at x answered: WRONGTYPE Operation against a key"))
    assert not is_wrong_type(BrokerError("Redis at x answered: OOM"))
    assert not is_wrong_type("WRONGTYPE")


async def test_an_error_of_one_call_leaves_the_others_alone(broker: Broker, redis: Redis) -> None:
    runner = Runner(broker._connection)
    set_, push = command("SET", "k", "v", read=nothing), command("LPUSH", "k", "v", read=int)
    first, error, last = await runner.run_all([set_, push, set_])
    assert (first, last) == (None, None)
    assert is_wrong_type(error)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await runner.run(push)


# A reply that is lost after the script ran.


@single.OVERHEARD
async def test_a_lost_reply_is_an_error_and_the_script_is_not_sent_again(
    redis_server: RedisProcess, clock: FakeClock, redis: Redis
) -> None:
    async with RedisProxy.before(redis_server) as proxy:
        broker = Broker(proxy.url, clock)
        await broker.enqueue([new_task("warm", queue="low")])
        before_loss = len(proxy.requests)
        proxy.loses_replies = True
        with pytest.raises(BrokerUnavailableError, match="may have happened"):
            await broker.enqueue([new_task(token="mine")])
        proxy.loses_replies = False
        sent = b"".join(proxy.requests[before_loss:])
        assert sent.count(b"EVALSHA") == 1
        assert await state.listed(redis, "pending") == ["t1"]
        before = await state.dump(redis)
        assert await broker.enqueue([new_task(token="mine")]) == [None]
        assert await state.dump(redis) == before
        await broker.close()


@single.PROXIED
async def test_settlements_survive_a_lost_reply(
    redis_server: RedisProcess, clock: FakeClock, redis: Redis
) -> None:
    tasks = state.messages(len(OUTCOMES), retention=60)
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    reports = [settlement(t, o, clock.now()) for t, o in zip(tasks, OUTCOMES, strict=True)]
    async with RedisProxy.before(redis_server) as proxy:
        broker = Broker(proxy.url, clock)
        for _ in range(2):  # the first time Redis does not know the scripts, and runs nothing
            proxy.loses_replies = True
            with pytest.raises(BrokerUnavailableError):
                await broker.settle(reports)
            proxy.loses_replies = False
            await broker.ping()
        assert await broker.settle(reports) == [True] * len(reports)
        await broker.close()
    assert await state.counter(redis, "processed") == 4
    assert await state.invariants(redis) == []


@pytest.mark.parametrize(
    "text", ["Event loop is closed", "<Queue> is bound to a different event loop"]
)
def test_connection_used_by_another_event_loop_says_so(text: str) -> None:
    with (
        pytest.raises(BrokerError, match="belongs to the event loop that used it first"),
        runner().errors(),
    ):
        raise RuntimeError(text)


def test_other_runtime_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="start new thread"), runner().errors():
        raise RuntimeError("can't start new thread")


def test_errors_of_the_cluster_client_go_through_the_door_too() -> None:
    with pytest.raises(BrokerError, match="some key"), runner().errors():
        raise redis_errors.RedisClusterException("some key is in another slot")


def test_functions_of_one_name_are_the_same_in_every_script() -> None:
    """Scripts include nothing, so each has its own copy; what is mended in one is to be mended in all."""
    copies: dict[str, set[str]] = {}
    for script in map(load, script_names()):
        for name, body in re.findall(r"^local function (\w+)(.*?)^end$", script.text, re.M | re.S):
            copies.setdefault(name, set()).add(body)
    assert {"holds", "count", "is_writable"} <= copies.keys()
    assert [name for name, bodies in copies.items() if len(bodies) > 1] == []
