"""The users of docs/guide/security.md, and what each of them does, step by step."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from asynqpy import BrokerUnavailableError, Client, Doctor, Task
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry, Settlement
from tests.broker.factories import SERVER, WORKER, new_task
from tests.damage import DAMAGES, seed_healthy
from tests.redis_process import HOST, RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import (
    ask,
    key,
    lock_key,
    message,
    messages,
    seed_active,
    seed_archived,
    seed_completed,
    seed_pending,
    seed_scheduled,
    task_key,
)

GUIDE = Path(__file__).parents[2] / "docs/guide/security.md"

PASSWORD = "PASSWORD"

_FENCED = re.compile(
    r"^```console\nredis-cli (?:-p 26379 )?ACL SETUSER (.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class User:
    """A line of the guide: ``rules`` by which it is made, as words."""

    name: str
    rules: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        return [rule[1:] for rule in self.rules if rule.startswith("+")]

    @property
    def patterns(self) -> list[str]:
        """Of keys and channels."""
        return [rule for rule in self.rules if rule.startswith(("~", "&"))]

    def plus(self, *rules: str) -> User:
        return replace(self, rules=(*self.rules, *rules))

    def without(self, rule: str) -> User:
        assert rule in self.rules
        return replace(self, rules=tuple(it for it in self.rules if it != rule))

    def install(self, server: RedisProcess) -> None:
        """Also free to say which library it uses, where that is known: redis-py tries, and does without."""
        make = ("ACL", "SETUSER", self.name, "reset", *self.rules)
        try:
            server.ask(*make, "+client|setinfo")
        except ResponseError:
            server.ask(*make)

    def url(self, server: RedisProcess) -> str:
        return f"redis://{self.name}:{PASSWORD}@{server.address}"


def users() -> dict[str, User]:
    """By name. The guide writes them for a shell."""
    found = {}
    for line in _FENCED.findall(GUIDE.read_text(encoding="utf-8")):
        name, *rules = shlex.split(line.replace("\\\n", ""))
        found[name] = User(name, tuple(rules))
    return found


def variant(name: str) -> list[list[str]]:
    """What the guide has in its table of variants: the rules in each piece of code."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    return [shlex.split(code.replace("\\|", "|")) for code in re.findall("`([^`]+)`", row)]


_ALL = users()

#: Of Redis.
USERS = {name: _ALL[name] for name in ("producer", "worker", "operator")}

#: Of sentinels.
WATCHER = _ALL["asynqpy"]

Seed: TypeAlias = Callable[[Redis], Awaitable[object]]
Act: TypeAlias = Callable[[str], Awaitable[object]]


async def nothing(redis: Redis) -> None:
    """An empty Redis will do."""


@dataclass(frozen=True)
class Step:
    """``seed`` prepares an empty Redis; ``act`` is what the user does, with his URL."""

    name: str
    act: Act
    seed: Seed = nothing


@dataclass
class Steps:
    of: dict[str, list[Step]] = field(default_factory=dict)

    def add(self, user: str, seed: Seed = nothing) -> Callable[[Act], Act]:
        def register(act: Act) -> Act:
            name = getattr(act, "__name__", "step")
            self.of.setdefault(user, []).append(Step(name, act, seed))
            return act

        return register


STEPS = Steps()
producer = partial(STEPS.add, "producer")
worker = partial(STEPS.add, "worker")
operator = partial(STEPS.add, "operator")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    """A broker of the user."""
    broker = Broker(url, owner=SERVER.owner)
    try:
        await broker.sync_clock()
        yield broker
    finally:
        await broker.close()


# A producer.


@producer()
async def enqueue_with_every_option(url: str) -> None:
    async with Client(url) as client:
        await client.enqueue(Task("plain"))
        await client.enqueue(Task("named"), task_id="named", retention=60)
        await client.enqueue(Task("unique"), unique=60)
        await client.enqueue(Task("later"), process_in=60)
        await client.enqueue(Task("grouped"), group="g")
        await client.enqueue(Task("grouped later"), group="g", process_in=60)


@producer()
async def enqueue_many_of_two_kinds(url: str) -> None:
    async with Client(url) as client:
        outcomes = await client.enqueue_many(
            Task("many", n, process_in=n % 2 * 60) for n in range(1500)
        )
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


@producer()
async def enqueue_again_what_was_stored(url: str) -> None:
    """As after an answer that was lost, and as a replica that was late makes a caller do."""
    async with opened(url) as broker:
        for _ in range(2):
            tasks = [new_task("again", token="mine", lock=lock_key(name="t:"))]
            for outcome in await broker.enqueue(tasks):
                if outcome is not None:
                    raise outcome


@producer()
async def notice_that_redis_is_back(url: str) -> None:
    """Whether it takes writes again is asked by one that changes nothing."""
    address = url.rpartition("@")[2]
    async with (
        RedisProxy(int(address.rpartition(":")[2])) as proxy,
        Client(url.replace(address, f"{HOST}:{proxy.port}")) as client,
    ):
        proxy.refuses = True
        with suppress(BrokerUnavailableError):
            await client.enqueue(Task("too early"))
        proxy.refuses = False
        await client.enqueue(Task("back"))


# A worker.


@worker()
async def tell_the_time_and_the_memory(url: str) -> None:
    async with opened(url) as broker:
        await broker.ping()
        await broker.memory_policies()


@worker()
async def show_a_server(url: str) -> None:
    async with opened(url) as broker:
        await broker.write_server_state(SERVER, [WORKER], 10)
        await broker.write_server_state(SERVER, [], 10)
        await broker.absent([SERVER.owner])
        await broker.clear_server_state(SERVER)


async def tasks_and_old_ones(redis: Redis) -> None:
    """Counters are full, and the archive has what is to be trimmed."""
    unique = message("unique", unique_key=lock_key(name="t:"))
    await seed_pending(redis, unique, *messages(7))
    old = message("old", unique_key=lock_key(name="old:"))
    await seed_archived(redis, old, at=1)
    for counter in ("processed", "failed"):
        await ask(redis, "SET", key("default", counter), 2**63 - 1)


OUTCOMES: list[Outcome] = [
    Done(),
    Done(),
    Complete(),
    Retry(2e9, "again"),
    Archive("for good"),
    Requeue(),
    Requeue(crashes=1),
]


@worker(seed=tasks_and_old_ones)
async def take_tasks_and_settle_them(url: str) -> None:
    async with opened(url) as broker:
        turn = await broker.dequeue({"default": 8})
        raise_any(turn.errors.values())
        for delivery in turn.deliveries:
            await broker.write_result(delivery.lease, b"result")
        await broker.extend_lease([delivery.lease for delivery in turn.deliveries])
        now = broker.clock.now()
        settlements = [
            Settlement(delivery.message, delivery.lease.fence, outcome, now)
            for delivery, outcome in zip(turn.deliveries, OUTCOMES, strict=False)
        ]
        raise_any(await broker.settle(settlements))


def raise_any(answers: Any) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


async def pending_tasks(redis: Redis) -> None:
    await seed_pending(redis, *messages(3))


@worker(seed=pending_tasks)
async def keep_and_put_back_what_was_granted(url: str) -> None:
    async with opened(url) as broker:
        grants = broker.grant(["default"])
        await broker.turn([], {"default": 2}, grants)
        await broker.extend_grants(grants)
        await broker.requeue_grants(grants)


async def ghosts(redis: Redis) -> None:
    """Ids in lists that lead nowhere, or to what is no task."""
    await seed_pending(redis, message("gone"), message("running"), message("wrong"))
    await seed_scheduled(redis, message("mute"), at=1)
    await ask(redis, "DEL", task_key("default", "gone"))
    await ask(redis, "HSET", task_key("default", "wrong"), "msg", b"\xff")
    await ask(redis, "HDEL", task_key("default", "mute"), "msg")
    await ask(redis, "ZADD", key("default", "lease"), time.time() + 20.5, "running")
    await ask(redis, "RPUSH", key("default", "active"), "running")


@worker(seed=ghosts)
async def set_aside_what_is_no_task(url: str) -> None:
    async with opened(url) as broker:
        raise_any((await broker.dequeue({"default": 8})).errors.values())
        await broker.forward(["default"])


async def delayed_tasks(redis: Redis) -> None:
    await seed_scheduled(redis, *messages(2), at=1)
    await seed_scheduled(redis, message("far"), at=2e9)
    await seed_scheduled(redis, message("grouped", group_key="g"), at=1)
    await ask(redis, "HSET", task_key("default", "grouped"), "group", "g")


@worker(seed=delayed_tasks)
async def forward_delayed_tasks(url: str) -> None:
    async with opened(url) as broker:
        await broker.forward(["default"])


async def orphans(redis: Redis) -> None:
    await seed_active(redis, message("orphan"), lease=100.5)


@worker(seed=orphans)
async def find_orphans(url: str) -> None:
    async with opened(url) as broker:
        leases = await broker.silent_leases(["default"], broker.clock.now(), broker.clock.now())
        await broker.orphans(leases)


async def kept_results(redis: Redis) -> None:
    await seed_completed(redis, message("kept"), until=1)


@worker(seed=kept_results)
async def delete_results_that_expired(url: str) -> None:
    async with opened(url) as broker:
        await broker.delete_expired_completed(["default"])


@worker()
async def listen_for_cancels(url: str) -> None:
    async with opened(url) as broker:
        cancellations = broker.cancellations()
        try:
            await cancellations.open()
        finally:
            await cancellations.close()


@worker()
async def be_told_of_changes(url: str) -> None:
    async with opened(url) as broker:
        try:
            await broker.key_watch.open()
        finally:
            await broker.key_watch.close()


@worker()
async def take_turns(url: str) -> None:
    async with opened(url) as broker:
        await broker.take_turn(["default"], 60)


async def heal(url: str) -> None:
    async with Doctor(url) as doctor:
        await doctor.heal()


async def damaged(redis: Redis, inflict: Seed) -> None:
    await seed_healthy(redis)
    await inflict(redis)


for _damage in DAMAGES:
    STEPS.of["worker"].append(
        Step(f"heal {_damage}", heal, partial(damaged, inflict=_damage.inflict))
    )
