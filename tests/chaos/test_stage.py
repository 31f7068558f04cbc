"""The whole harness, sabotaged: what goes wrong behind its back must show in the books."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from tests.chaos.books import Books
from tests.chaos.producer import Order
from tests.chaos.scenario import Settings
from tests.chaos.stage import Stage, staged
from tests.redis_state import ask, key, message, seed_pending, task_key


def settings(folder: Path) -> Settings:
    return Settings("sabotage", 1, 10, 0, seed=1, engine="asynqpy", folder=folder)


def orders(prefix: str) -> list[Order]:
    return [Order(f"{prefix}{number}", "sleep", {"ms": 10}) for number in range(5)]


async def sabotage(stage: Stage) -> Books:
    """One task is taken away, one runs again, one key is left behind; nothing else happens."""
    await stage.produce(orders("gone"))
    async with Redis.from_url(stage.redis.url, protocol=2) as redis:
        await ask(redis, "LREM", key("default", "pending"), 1, "gone3")
        await ask(redis, "DEL", task_key("default", "gone3"))
        await stage.fleet.ready(stage.fleet.start())
        await stage.produce(orders("again"))
        await stage.until_started(["again2"])
        await stage.until_drained()
        await seed_pending(redis, message("again2", type="sleep", payload=b'{"ms": 10}'))
        await ask(redis, "SET", key("default", "forgotten"), "1")
    return await stage.close_books(within=10)


async def test_what_is_done_behind_its_back_is_found(tmp_path: Path) -> None:
    async with staged(settings(tmp_path)) as stage:
        books = await sabotage(stage)
        assert stage.fleet.alive == stage.fleet.bury() == []
    assert books.accounts.lost == ["gone3"]
    assert books.accounts.unexcused == books.accounts.finished_again == ["again2"]
    assert books.verdict.keys == ["asynq:{default}:forgotten"]
    assert [breach.split(":")[0] for breach in books.result.breaches] == [
        "1 tasks lost",
        "1 keys leaked",
        "1 runs again of tasks that were in flight at no fault",
    ]
    figures = books.result.figures
    assert (figures["acknowledged"], figures["finished"], figures["executions"]) == (10, 9, 10)


async def test_task_that_does_not_end_is_stuck(tmp_path: Path) -> None:
    async with staged(settings(tmp_path)) as stage:
        await stage.produce([Order("forever", "sleep", {"ms": 1})])
        books = await stage.close_books(within=0.3)
    assert books.verdict.left == {"default:pending": ["forever"]}
    assert [breach.split(":")[0] for breach in books.result.breaches] == [
        "not drained",
        "1 tasks stuck",
    ]


async def test_no_worker_outlives_its_stage(tmp_path: Path) -> None:
    async with staged(settings(tmp_path)) as stage:
        await stage.fleet.ready(stage.fleet.start(2))
        workers = stage.fleet.alive
        await stage.fleet.kill(workers[0])
        stage.ledger.update()
        assert [worker.pid for worker in stage.fleet.alive] == [workers[1].pid]
    assert not any(worker.is_alive for worker in workers)
    assert [fault.kind for fault in stage.ledger.faults] == ["sigkill"]
