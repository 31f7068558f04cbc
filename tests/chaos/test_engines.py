from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.engines import ENGINES
from tests.chaos.producer import Order
from tests.chaos.scenario import Settings
from tests.chaos.stage import staged
from tests.requires import need_go

ORDERS = [
    Order("quick", "sleep", {"ms": 1}),
    Order("held", "block", {"ms": 1}),
    Order("written", "result", {"ms": 1}),
    Order("twice", "fail", {"ms": 1, "fails": 1}),
    Order("refused", "fail", {"ms": 1, "fails": 1}, {"max_retry": 0}),
]


@pytest.mark.parametrize("engine", list(ENGINES))
async def test_workers_of_every_engine_do_the_same_and_keep_the_same_journal(
    engine: str, tmp_path: Path
) -> None:
    if engine == "go":
        need_go()
    settings = Settings("test", 1, len(ORDERS), 0, seed=1, engine=engine, folder=tmp_path)
    async with staged(settings, concurrency=5, retry_delay=0) as stage:
        (worker,) = stage.fleet.start()
        await stage.fleet.ready([worker])
        await stage.produce(ORDERS)
        books = await stage.close_books(within=30)
    runs = {
        task_id: [(run.pid, run.retried, run.how) for run in story.runs]
        for task_id, story in stage.ledger.tasks.items()
    }
    pid = worker.pid
    assert runs == {
        "quick": [(pid, 0, "ok")],
        "held": [(pid, 0, "ok")],
        "written": [(pid, 0, "ok")],
        "twice": [(pid, 0, "failed"), (pid, 1, "ok")],
        "refused": [(pid, 0, "failed")],
    }
    assert list(books.verdict.archived) == ["refused"]
    assert books.result.breaches == []


@pytest.mark.parametrize("engine", list(ENGINES))
async def test_poison_takes_a_worker_of_every_engine_down(engine: str, tmp_path: Path) -> None:
    if engine == "go":
        need_go()
    settings = Settings("test", 1, 1, 0, seed=1, engine=engine, folder=tmp_path)
    async with staged(settings) as stage:
        (worker,) = stage.fleet.start()
        await stage.fleet.ready([worker])
        await stage.produce([Order("bad", "poison", {"ms": 1})])
        await worker.ended()
        stage.ledger.update()
    assert [(fault.pid, fault.kind) for fault in stage.ledger.faults] == [(worker.pid, "poison")]
    assert [run.ended for run in stage.ledger.tasks["bad"].runs] == [0]
