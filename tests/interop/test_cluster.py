"""Go's asynq with ``RedisClusterClientOpt`` and asynqpy beside each other on a cluster of six nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asynqpy import Client, Inspector, Task, TaskInfo
from asynqpy.broker.broker import Broker
from tests.eventually import eventually
from tests.interop.go_build import VERSIONS, build
from tests.interop.go_program import GoProgram
from tests.interop.python_worker import python_process, python_worker
from tests.regressions.histories import closing
from tests.requires import need_go
from tests.topologies.cluster import ClusterProcesses, start_cluster

EACH = 400


@pytest.fixture(scope="module")
def six_nodes() -> Iterator[ClusterProcesses]:
    with start_cluster(3, 1) as processes:
        yield processes


@pytest.fixture
def cluster(six_nodes: ClusterProcesses) -> ClusterProcesses:
    """Empty."""
    for node in six_nodes.primaries():
        node.ask("FLUSHALL")
    return six_nodes


@pytest.fixture(params=list(VERSIONS), ids=[f"go-{version}" for version in VERSIONS])
def go(request: pytest.FixtureRequest, cluster: ClusterProcesses) -> GoProgram:
    need_go()
    return GoProgram(request.param, build(request.param), cluster.url)


@pytest.fixture
async def client(cluster: ClusterProcesses) -> AsyncIterator[Client]:
    async with Client(cluster.url) as client:
        yield client


@pytest.fixture
def queues(cluster: ClusterProcesses) -> dict[str, int]:
    """One for each primary."""
    found: dict[int, str] = {}
    for number in range(100):
        queue = f"q{number}"
        found.setdefault(cluster.primary_of_queue(queue).port, queue)
    assert len(found) == 3
    return dict.fromkeys(found.values(), 1)


async def test_tasks_of_gos_client_run_on_our_server_on_every_primary(
    go: GoProgram, cluster: ClusterProcesses, queues: dict[str, int]
) -> None:
    tasks = [await go.enqueue("result:1", payload=b"r", queue=q, retention=60) for q in queues]

    async with python_worker(cluster.url, queues=queues) as worker:
        for task in tasks:
            await worker.event("end", id=task.id, queue=task.queue, error="")

    # The server has stopped, so all is written.
    for task in tasks:
        assert (await go.task(task.id, task.queue)).result == b"r"
    assert await go.queues() == set(queues)


async def test_our_tasks_run_on_gos_server_on_every_primary(
    go: GoProgram, client: Client, queues: dict[str, int]
) -> None:
    infos = [
        await client.enqueue(Task("failonce:1", b"p"), queue=queue, max_retry=2) for queue in queues
    ]
    infos += [await client.enqueue(Task("ok:1"), queue=queue, process_in=1) for queue in queues]

    async with go.worker(queues=queues, retry_delay=0) as worker:
        for info in infos:
            await worker.event("end", id=info.id, queue=info.queue, error="")

    for queue in queues:
        state = await go.queue(queue)
        assert (state.size, state.processed, state.failed) == (0, 3, 1)


async def test_a_go_and_a_python_worker_share_the_queues_of_three_primaries(
    go: GoProgram, client: Client, cluster: ClusterProcesses, queues: dict[str, int]
) -> None:
    # All are there before the first is taken: else the faster worker would have them all.
    ids = []
    for queue in queues:
        await go.act("pause", queue=queue)
        theirs = await go.enqueue_many("sleep:go", EACH, payload=b"20", queue=queue)
        ours = await client.enqueue_many([Task("sleep:python", b"20")] * EACH, queue=queue)
        ids += [task.id for task in theirs] + [i.id for i in ours if isinstance(i, TaskInfo)]
    assert len(ids) == 2 * EACH * len(queues)

    async with (
        go.worker(queues=queues) as other,
        python_process(cluster.url, queues=queues) as mine,
    ):
        for queue in queues:
            await go.act("unpause", queue=queue)
        await eventually(
            lambda: len(other.ids("end")) + len(mine.ids("end")) >= len(ids), within=60
        )

    assert sorted(other.ids("start") + mine.ids("start")) == sorted(ids)
    for queue in queues:
        for worker in (other, mine):
            assert sum(it.queue == queue for it in worker.events if it.event == "end") > EACH / 10
        state = await go.queue(queue)
        assert (state.processed, state.failed, state.size) == (2 * EACH, 0, 0)


async def test_gos_inspector_sees_our_server_and_cancels_its_tasks(
    go: GoProgram, client: Client, cluster: ClusterProcesses, queues: dict[str, int]
) -> None:
    infos = [await client.enqueue(Task("hang:1"), queue=queue, max_retry=0) for queue in queues]
    async with python_worker(cluster.url, queues=queues) as worker:
        for info in infos:
            await worker.event("start", id=info.id)

        async def at_work() -> bool:
            servers = await go.servers()
            return [sorted(it.id for it in server.workers) for server in servers] == [
                sorted(info.id for info in infos)
            ]

        await eventually(at_work, within=15)
        (server,) = await go.servers()
        assert (server.queues, server.status) == (queues, "active")
        await _a_listener(cluster)
        for info in infos:
            await go.act("cancel", id=info.id)
            await worker.event("end", id=info.id)

    assert await go.servers() == []
    for info in infos:
        assert (await go.task(info.id, info.queue)).state == "archived"


async def test_tasks_at_gos_worker_are_cancelled_from_python(
    go: GoProgram, client: Client, cluster: ClusterProcesses, queues: dict[str, int]
) -> None:
    infos = [await client.enqueue(Task("hang:1"), queue=queue, max_retry=0) for queue in queues]
    async with go.worker(queues=queues) as worker, closing(Broker(cluster.url)) as broker:
        for info in infos:
            await worker.event("start", id=info.id)
        await _a_listener(cluster)
        for info in infos:
            await broker.publish_cancel(info.id)
            await worker.event("error", id=info.id, error="context canceled")

    for info in infos:
        assert (await go.task(info.id, info.queue)).state == "archived"


async def _a_listener(cluster: ClusterProcesses) -> None:
    """Wait until a server has subscribed to cancellations, at whichever node."""

    def listeners() -> int:
        return sum(node.ask("PUBSUB NUMSUB", "asynq:cancel")[0][1] for node in cluster.nodes)

    await eventually(listeners, within=10)


async def test_the_slot_of_a_queue_is_that_of_go(
    go: GoProgram, cluster: ClusterProcesses, queues: dict[str, int]
) -> None:
    async with Inspector(cluster.url) as inspector:
        for queue in queues:
            assert await inspector.cluster_key_slot(queue) == await go.slot(queue)
