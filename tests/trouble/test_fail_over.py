"""The master that sentinels watch dies, hangs or steps down, and a replica takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import ActiveTask, Task
from tests.eventually import eventually
from tests.redis_process import RedisProcess
from tests.server.servers import serving
from tests.topologies.sentinel import MASTER, Replicated, start_replicated
from tests.trouble.voice import told
from tests.trouble.work import WELCOME, Work, insist

#: Seconds from the switch within which everything goes on, on a machine that others use too.
SOON = 15.0


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    # Of a busy machine they may not hear for a second, and replace a master that lives.
    config = [f"sentinel down-after-milliseconds {MASTER} 2500"]
    with start_replicated(sentinel_config=config) as replicated:
        yield replicated


class Patient(Work):
    """Keeps tasks of the type ``wait`` until it is told to let them end."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()

    def has_done(self, task_id: str) -> bool:
        return task_id in self.done

    async def __call__(self, task: ActiveTask) -> None:
        self.began.append(task.id)
        if task.type == "wait":
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.append(task.id)
                raise
        self.done.append(task.id)


def lease(server: RedisProcess, task_id: str) -> float | None:
    score = server.ask("ZSCORE", "asynq:{default}:lease", task_id)
    return None if score is None else float(score)


def is_unused(server: RedisProcess) -> bool:
    """Whether all who are connected to it are its replicas, the sentinels and this question."""
    clients = server.ask("CLIENT", "LIST")
    text = clients.decode() if isinstance(clients, bytes) else str(clients)
    return "evalsha" not in text and "tracking" not in text


async def switched(replicated: Replicated, old: RedisProcess) -> RedisProcess:
    return await asyncio.to_thread(replicated.wait_for_switch, old, 60.0)


async def test_what_runs_keeps_its_lease_and_is_settled_at_the_new_master(
    replicated: Replicated,
) -> None:
    work, url = Patient(), replicated.url
    async with (
        serving(url, work, task_check_interval=60.0) as server,
        Client(url) as client,
    ):
        for task_id in ("kept", "unwanted"):
            await client.enqueue(Task("wait", task_id=task_id, max_retry=5))
        await eventually(lambda: len(work.began) == 2, within=SOON)
        for replica in replicated.replicas():
            await eventually(partial(lease, replica, "kept"), within=SOON)
        dead = replicated.kill_master()
        heir = await switched(replicated, dead)
        before = lease(heir, "kept")
        assert before is not None

        def is_extended() -> bool:
            now = lease(heir, "kept")
            return now is not None and now > before

        await eventually(is_extended, within=SOON)
        # It takes itself for the master still, and nobody believes it.
        replicated.restart(dead, rejoins=False)

        def is_cancelled() -> bool:
            heir.ask("PUBLISH", "asynq:cancel", "unwanted")
            return work.cancelled == ["unwanted"]

        await eventually(is_cancelled, within=SOON)
        work.release.set()
        await eventually(lambda: lease(heir, "kept") is None, within=SOON)
        for number in range(3):  # polled once a minute: they are told of
            await insist(client, f"later{number}")
            await eventually(partial(work.has_done, f"later{number}"), within=SOON)
        assert str(server.state) == "active"
    assert work.began.count("kept") == 1
    assert heir.ask("EXISTS", "asynq:{default}:t:kept") == 0
    assert heir.ask("HGET", "asynq:{default}:t:unwanted", "state") in (b"retry", b"pending")


async def test_a_master_that_hangs_is_left_as_soon_as_there_is_another(
    replicated: Replicated, caplog: pytest.LogCaptureFixture
) -> None:
    loop, work, url = asyncio.get_running_loop(), Work(), replicated.url
    async with serving(url, work), Client(url) as client:
        await insist(client, "before")
        await eventually(lambda: "before" in work.done, within=SOON)
        replicated.sentinels[0].kill()  # which both listen to
        master = replicated.master()
        master.pause()
        call = asyncio.ensure_future(client.enqueue(WELCOME, task_id="unanswered"))
        await switched(replicated, master)
        at = loop.time()
        with pytest.raises(BrokerUnavailableError):
            await call
        await insist(client, "after")
        await eventually(lambda: "after" in work.done, within=SOON)
        assert loop.time() - at < SOON
        master.resume()
        await insist(client, "later")
        await eventually(lambda: "later" in work.done, within=SOON)
    assert is_unused(master)
    assert told(caplog, "another master")
    assert told(caplog, "is away") == told(caplog, "is back after")


async def test_a_switch_that_was_asked_for_costs_no_task_that_all_replicas_had(
    replicated: Replicated,
) -> None:
    work, url = Work(), replicated.url
    names = [f"t{number}" for number in range(400)]
    # The old master takes tasks until it is told, when the new one has left it already: those would be lost.
    async with serving(url, work), Client(url, min_replicas=2) as client:

        async def produce() -> None:
            for name in names:
                await insist(client, name)
                await asyncio.sleep(0.005)

        producing = asyncio.create_task(produce())
        await eventually(lambda: len(work.done) > 50, within=SOON)
        old = replicated.master()
        await asyncio.to_thread(replicated.fail_over)
        await producing
        # What the old one took last may not have reached the new one, where it is taken for waiting.
        await eventually(lambda: set(names) <= set(work.done), within=60)
        assert is_unused(old)


async def test_servers_and_clients_go_on_without_any_sentinel(
    replicated: Replicated, caplog: pytest.LogCaptureFixture
) -> None:
    work, url = Work(), replicated.url
    async with serving(url, work, concurrency=30), Client(url) as client:
        await insist(client, "before")
        await eventually(lambda: "before" in work.done, within=SOON)
        for sentinel in replicated.sentinels:
            sentinel.kill()
        # More at once than there are connections.
        names = [f"t{number}" for number in range(100)]
        await asyncio.gather(*(client.enqueue(WELCOME, task_id=name) for name in names))
        await eventually(lambda: set(names) <= set(work.done), within=SOON)
        assert told(caplog, "is away") == 0
        replicated.servers[0].kill()

        async def refusal() -> str | None:
            """That of the sentinels: at first one of the dead master itself may come."""
            try:
                await client.enqueue(WELCOME)
            except BrokerUnavailableError as error:
                return str(error) if "no sentinel names a master" in str(error) else None
            return None

        text = str(await eventually(refusal, within=SOON))
        for sentinel in replicated.sentinels:
            assert sentinel.address in text
