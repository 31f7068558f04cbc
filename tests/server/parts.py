"""Parts of a server put together as its ``_assemble`` does, with what a test wants to be different."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import ServerInfo
from asynqpy.clock import Clock
from asynqpy.handler import Handler, as_async
from asynqpy.priority import WeightedPriority
from asynqpy.server.canceler import Canceler
from asynqpy.server.error_report import ErrorHandler, ErrorReport
from asynqpy.server.executor import Executor
from asynqpy.server.forwarder import Forwarder
from asynqpy.server.healthchecker import HealthChecker
from asynqpy.server.heartbeater import Heartbeater
from asynqpy.server.janitor import Janitor
from asynqpy.server.loopwatch import LoopWatch
from asynqpy.server.memory_check import MemoryCheck
from asynqpy.server.processor import Processor
from asynqpy.server.recoverer import Recoverer
from asynqpy.server.runs import Runs
from asynqpy.server.service import Service
from asynqpy.server.settler import Settler
from asynqpy.server.verdict import FailurePolicy
from asynqpy.server.waker import Waker
from tests.eventually import eventually

POLICY = FailurePolicy(retry_delay=lambda retried, error, task: 60.0)


async def returns(task: object) -> None:
    """A handler that succeeds at once."""


@dataclass(frozen=True)
class Workshop:
    """A processor and the parts that it works with."""

    processor: Processor
    settler: Settler
    runs: Runs


def a_workshop(
    broker: Broker,
    handler: Handler = returns,
    *,
    concurrency: int = 10,
    queues: Mapping[str, int] | None = None,
    error_handler: ErrorHandler | None = None,
    policy: FailurePolicy = POLICY,
    task_check_interval: float = 1.0,
    retry_due: Callable[[float], None] = lambda due: None,
) -> Workshop:
    clock, runs, report = broker.clock, Runs(), ErrorReport(error_handler)
    settler = Settler(clock=clock)
    processor = Processor(
        broker=broker,
        clock=clock,
        priority=WeightedPriority(queues or {"default": 1}),
        concurrency=concurrency,
        executor=Executor(handler=as_async(handler), policy=policy, report=report, clock=clock),
        settler=settler,
        runs=runs,
        report=report,
        task_check_interval=task_check_interval,
        retry_due=retry_due,
    )
    return Workshop(processor, settler, runs)


async def work_off(shop: Workshop) -> None:
    """Tick until a turn brings nothing, no handler runs and no outcome is to be written now."""
    while True:
        ended = shop.runs.ended
        await shop.processor.tick()
        if not len(shop.runs) and shop.runs.ended == ended and shop.settler.next_due() > 0:
            break
        await eventually(lambda: not len(shop.runs))


def a_server_info(running: int = 0, **fields: Any) -> ServerInfo:
    defaults = {
        "host": "host1",
        "pid": 1234,
        "server_id": "5f1c9f4e",
        "concurrency": 10,
        "queues": {"default": 1},
        "status": "active",
        "start_time": datetime.fromtimestamp(1_700_000_000, UTC),
    }
    return ServerInfo(**{**defaults, **fields}, active_worker_count=running)


def a_heartbeater(
    broker: Broker, clock: Clock, runs: Runs, *, interval: float = 5.0
) -> Heartbeater:
    return Heartbeater(
        broker=broker,
        clock=clock,
        runs=runs,
        describe=a_server_info,
        server_loop=asyncio.get_running_loop(),
        interval=interval,
    )


def a_recoverer(
    broker: Broker,
    *,
    error_handler: ErrorHandler | None = None,
    owner: str = "this:1:server",
    claims: Callable[[str, bytes], bool] = lambda queue, task_id: True,
    retry_due: Callable[[float], None] = lambda due: None,
) -> Recoverer:
    return Recoverer(
        broker=broker,
        clock=broker.clock,
        queues=["default"],
        report=ErrorReport(error_handler),
        owner=owner,
        claims=claims,
        retry_due=retry_due,
    )


def _loop_watch(broker: Broker) -> LoopWatch:
    loop = asyncio.get_running_loop()
    return LoopWatch(server_loop=loop, thread_id=threading.get_ident())


#: How to make each service that a server has.
EVERY_SERVICE: Mapping[str, Callable[[Broker], Service]] = {
    "processor": lambda b: a_workshop(b).processor,
    "forwarder": lambda b: Forwarder(broker=b, clock=b.clock, queues=["default"], interval=5.0),
    "recoverer": a_recoverer,
    "janitor": lambda b: Janitor(broker=b, queues=["default"], interval=8.0, batch_size=100),
    "heartbeater": lambda b: a_heartbeater(b, b.clock, Runs()),
    "canceler": lambda b: Canceler(broker=b, runs=Runs()),
    "healthchecker": lambda b: HealthChecker(broker=b, health_check=lambda _: None, interval=15.0),
    "memorycheck": lambda b: MemoryCheck(broker=b),
    "loopwatch": _loop_watch,
    "waker": lambda b: Waker(broker=b),
}
