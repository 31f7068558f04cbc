"""The permissions of the guide: enough for everything that is done, and none too many."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from asynqpy import (
    ActiveTask,
    AsynqError,
    BrokerAuthError,
    CancelCause,
    Client,
    SkipRetry,
    Task,
)
from asynqpy.broker.broker import Broker
from asynqpy.broker.redis_errors import Kind, kind_of
from tests.acceptance.operating import STEPS
from tests.acceptance.permissions import USERS, Step, User
from tests.eventually import eventually
from tests.redis_process import RedisProcess, start_redis
from tests.redis_state import ask, message, seed_pending, states, task_hash
from tests.server.servers import a_server, serving

SCRIPTS = Path(__file__).parents[2] / "asynqpy/broker/lua"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with start_redis() as process:
        yield process


@pytest.fixture
async def admin(server: RedisProcess) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, protocol=2) as client:
        await client.flushall()
        for user in USERS.values():
            user.install(server)
        await forget(client)
        yield client


async def forget(admin: Redis) -> None:
    """What was used and refused so far."""
    await ask(admin, "ACL", "LOG", "RESET")
    await ask(admin, "CONFIG", "RESETSTAT")


async def refused(admin: Redis) -> set[str]:
    """Commands, keys and channels that were refused to somebody since ``forget``."""
    entries = await ask(admin, "ACL", "LOG")
    named = [dict(zip(it[::2], it[1::2], strict=True)) for it in entries]
    return {entry[b"object"].decode() for entry in named}


async def used(admin: Redis) -> set[str]:
    """Commands that were run since ``forget``, also in scripts. Early versions name them without the second word."""
    return {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}


def is_used(command: str, names: set[str]) -> bool:
    return command in names or command.partition("|")[0] in names


async def take(step: Step, user: User, server: RedisProcess, admin: Redis) -> None:
    """Have the user do it on a Redis that is prepared for it."""
    await admin.flushall()
    await ask(admin, "SCRIPT", "FLUSH")
    await step.seed(admin)
    await forget(admin)
    await step.act(user.url(server))


async def uses(user: User, server: RedisProcess, admin: Redis) -> dict[str, list[Step]]:
    """The steps that use each of the user's commands. Nothing is refused on the way."""
    found: dict[str, list[Step]] = {command: [] for command in user.commands}
    for step in STEPS.of[user.name]:
        await take(step, user, server, admin)
        assert await refused(admin) == set(), step.name
        names = await used(admin)
        for command in user.commands:
            if is_used(command, names):
                found[command].append(step)
    return found


async def is_missed(
    command: str, user: User, steps: list[Step], server: RedisProcess, admin: Redis
) -> bool:
    """Whether one of the steps is refused the command."""
    user.without(f"+{command}").install(server)
    for step in steps:
        with suppress(AsynqError):
            await take(step, user, server, admin)
        if any(is_used(command, {it}) for it in await refused(admin)):
            return True
    return False


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
async def test_its_commands_suffice_and_none_is_one_too_many(
    user: User, server: RedisProcess, admin: Redis
) -> None:
    found = await uses(user, server, admin)
    for command, steps in found.items():
        assert await is_missed(command, user, steps, server, admin), command


@pytest.mark.parametrize(
    ("user", "pattern"),
    [(user, pattern) for user in USERS.values() for pattern in user.patterns],
    ids=lambda it: it if isinstance(it, str) else it.name,
)
async def test_it_needs_each_of_its_keys_and_channels(
    user: User, pattern: str, server: RedisProcess, admin: Redis
) -> None:
    user.without(pattern).install(server)
    for step in STEPS.of[user.name]:
        with suppress(AsynqError):
            await take(step, user, server, admin)
        if await refused(admin):
            return
    raise AssertionError("nothing was refused")


#: Of a script: a quoted word in capitals that is an option of a command, and no command.
_OPTIONS = {"COUNT", "EX", "LIMIT", "RANK", "USAGE", "WITHSCORES"}


def commands_in(script: Path) -> set[str]:
    words = set(re.findall(r"'([A-Z]{2,})'", script.read_text(encoding="utf-8")))
    return {word.lower() for word in words - _OPTIONS}


def test_what_scripts_do_only_now_and_then_is_allowed_too() -> None:
    scripts = {path.stem: path for path in SCRIPTS.glob("*.lua")}
    enqueue = scripts.pop("enqueue")
    assert commands_in(enqueue) <= {*USERS["producer"].commands}
    for script in (enqueue, *scripts.values()):
        assert commands_in(script) <= {*USERS["worker"].commands}, script.name
    operators = {command.partition("|")[0] for command in USERS["operator"].commands}
    for script in (*SCRIPTS.glob("admin/*.lua"), scripts["reclaim_set"]):
        assert commands_in(script) <= operators, script.name


async def test_a_producer_takes_nothing_and_reads_nothing_else(
    server: RedisProcess, admin: Redis
) -> None:
    await seed_pending(admin, message("t1"))
    await admin.set("secret", "s3cret")
    url = USERS["producer"].url(server)
    broker = Broker(url, owner="h:1:s")
    turn = await broker.dequeue({"default": 1})
    assert isinstance(turn.errors["default"], BrokerAuthError)
    assert await states(admin, "t1") == ["pending"]
    await broker.close()
    async with Redis.from_url(url) as client:
        for words in (
            ("GET", "secret"),
            ("RPOP", "asynq:{default}:pending"),
            ("LRANGE", "asynq:{default}:pending", 0, -1),
            ("ZCARD", "asynq:{default}:archived"),
            ("GET", "asynq:servers:{h:1:s}"),
            ("EVAL", "return redis.call('GET', KEYS[1])", 1, "secret"),
            ("EVAL", "return redis.call('RPOP', KEYS[1])", 1, "asynq:{default}:pending"),
            ("KEYS", "*"),
            ("SCAN", 0),
            ("PUBLISH", "asynq:cancel", "t1"),
        ):
            assert await is_denied(client, *words), words


async def test_a_worker_has_nothing_beyond_its_queues(server: RedisProcess, admin: Redis) -> None:
    await admin.set("secret", "s3cret")
    async with Redis.from_url(USERS["worker"].url(server)) as client:
        for words in (
            ("GET", "secret"),
            ("EVAL", "return redis.call('GET', 'secret')", 0),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("KEYS", "*"),
            ("CLIENT", "LIST"),
            ("MONITOR",),
            ("SUBSCRIBE", "other"),
            ("PUBLISH", "asynq:cancel", "t1"),
            ("SELECT", 1),
        ):
            assert await is_denied(client, *words), words


async def is_denied(client: Redis, *words: str | int) -> bool:
    try:
        await ask(client, *words)
    except RedisError as error:
        return kind_of(error) is Kind.AUTH
    return False


async def test_a_client_and_a_server_live_together_as_the_two(
    server: RedisProcess, admin: Redis
) -> None:
    causes: list[CancelCause | None] = []

    async def handle(task: ActiveTask) -> None:
        if task.type == "quick":
            await task.write_result(b"done")
        elif task.type == "failing":
            raise OSError("again")
        else:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                causes.append(task.cancel_cause)
                raise SkipRetry("cancelled") from None

    async def cancelled() -> bool:
        await admin.publish("asynq:cancel", "slow")
        return bool(causes)

    working = serving(USERS["worker"].url(server), handle, task_check_interval=60)
    async with working, Client(USERS["producer"].url(server)) as client:
        await eventually(lambda: server.ask("INFO", "clients")["tracking_clients"])
        await client.enqueue(Task("quick"), task_id="quick", retention=60)
        await client.enqueue(Task("quick"), task_id="later", retention=60, process_in=1)
        await client.enqueue(Task("failing"), task_id="failing")
        await client.enqueue(Task("slow"), task_id="slow")
        await eventually(cancelled)
        await eventually(lambda: settled(admin))
        assert (await task_hash(admin, "quick"))["result"] == b"done"
    assert causes == [CancelCause.REQUESTED]
    assert await refused(admin) == set()


async def settled(admin: Redis) -> bool:
    found = await states(admin, "quick", "later", "failing", "slow")
    return found == ["completed", "completed", "retry", "archived"]


# What becomes of who is not allowed something.


async def test_a_producer_is_told_what_it_may_not(server: RedisProcess, admin: Redis) -> None:
    user = USERS["producer"].without("+lpush")
    user.install(server)
    async with Client(user.url(server)) as client:
        with pytest.raises(BrokerAuthError, match="check user, password and ACL"):
            await client.enqueue(Task("t"))
        (outcome,) = await client.enqueue_many([Task("t")])
        assert isinstance(outcome, BrokerAuthError)


async def test_a_server_does_not_start_without_what_everything_needs(
    server: RedisProcess, admin: Redis
) -> None:
    user = USERS["worker"].without("+time")
    user.install(server)
    serving = a_server(user.url(server))
    with pytest.raises(BrokerAuthError):
        await serving.start(refuse)
    await serving.shutdown()


async def refuse(task: ActiveTask) -> None:
    raise AssertionError("there are no tasks")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("+client|tracking", "new tasks are found by polling"),
        ("&asynq:cancel", "canceler failed"),
        ("+info", "cannot see what Redis does when it is full"),
        ("+setex", "heartbeater failed"),
    ],
)
async def test_a_worker_does_without_and_says_so(
    rule: str,
    told: str,
    server: RedisProcess,
    admin: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = USERS["worker"].without(rule)
    user.install(server)
    caplog.set_level(logging.DEBUG, "asynqpy")
    ran = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        ran.set()

    async with Client(USERS["producer"].url(server)) as client, serving(user.url(server), handle):
        denied = await eventually(lambda: [it for it in caplog.messages if told in it])
        assert re.search("no permissions|script can't run", denied[0], re.IGNORECASE)
        await client.enqueue(Task("t"))
        await asyncio.wait_for(ran.wait(), 5)
