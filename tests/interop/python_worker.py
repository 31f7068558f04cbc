"""The Python worker of these tests: the handlers of ``go/handlers.go`` again, and the same events.

``python_worker`` runs it in this process, ``python_process`` in one of its own, to be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from asynqpy import ActiveTask, ServeMux, Server, SkipRetry
from tests.interop.events import Event, EventLog
from tests.interop.worker_process import WorkerProcess

Tell = Callable[[Event], None]

ROOT = Path(__file__).parents[2]


class OnPurposeError(Exception):
    def __init__(self) -> None:
        super().__init__("failed on purpose: é")


class PythonWorker(EventLog):
    """What the handlers tell, and the server that runs them."""

    server: Server


@asynccontextmanager
async def python_worker(redis_url: str, **options: Any) -> AsyncIterator[PythonWorker]:
    """A server for the time of the ``async with``; ``options`` are those of ``Server``."""
    worker = PythonWorker()
    worker.server = make_server(redis_url, worker.append, **options)
    async with worker.server.running(handlers(worker.append)):
        yield worker


def python_process(
    redis_url: str, queues: Mapping[str, int] | None = None
) -> AbstractAsyncContextManager[WorkerProcess]:
    """A server in a process of its own, with ten workers, on the default queue unless others are given."""
    names = json.dumps(queues or {"default": 1})
    return WorkerProcess.running(
        sys.executable, "-m", "tests.interop.python_worker", redis_url, names, cwd=ROOT
    )


def make_server(redis_url: str, tell: Tell, **options: Any) -> Server:
    async def tell_error(task: ActiveTask, error: BaseException) -> None:
        tell(event_of("error", task, error))

    # How soon new tasks and retries are seen is not what these tests are about.
    quick = {"task_check_interval": 0.1, "delayed_task_check_interval": 0.2}
    return Server(redis_url, error_handler=tell_error, **{**quick, **options})


def handlers(tell: Tell) -> ServeMux:
    async def told(task: ActiveTask, call_next: Callable[[ActiveTask], Awaitable[Any]]) -> None:
        tell(event_of("start", task))
        try:
            await call_next(task)
        except BaseException as error:
            tell(event_of("end", task, error))
            raise
        tell(event_of("end", task))

    mux = ServeMux()
    mux.use(told)
    mux.handle("ok:", succeed)
    mux.handle("fail:", always_fail)
    mux.handle("failonce:", fail_once)
    mux.handle("skip:", skip_retry)
    mux.handle("result:", echo_result)
    mux.handle("sleep:", sleep)
    mux.handle("hang:", hang)
    mux.handle("hang-in-go:", succeed)
    mux.handle("hang-in-python:", hang)
    return mux


def event_of(name: str, task: ActiveTask, error: BaseException | None = None) -> Event:
    return Event(
        event=name,
        id=task.id,
        type=task.type,
        queue=task.queue,
        payload=task.payload or None,
        headers=dict(task.headers) or None,
        retried=task.retried,
        max_retry=task.max_retry,
        deadline=task.deadline,
        error=(str(error) or type(error).__name__) if error else "",
    )


async def succeed(task: ActiveTask) -> None:
    """Nothing to do."""


async def always_fail(task: ActiveTask) -> None:
    raise OnPurposeError


async def fail_once(task: ActiveTask) -> None:
    if task.retried == 0:
        raise OnPurposeError


async def skip_retry(task: ActiveTask) -> None:
    raise SkipRetry("not worth a retry")


async def echo_result(task: ActiveTask) -> None:
    await task.write_result(task.payload)


async def sleep(task: ActiveTask) -> None:
    """The payload is in milliseconds."""
    await asyncio.sleep(int(task.payload) / 1000)


async def hang(task: ActiveTask) -> None:
    """Until the task is cancelled or out of time."""
    await asyncio.Event().wait()


def main(redis_url: str, queues: Mapping[str, int]) -> None:
    def tell(event: Event) -> None:
        print(msgspec.json.encode(event).decode(), flush=True)

    async def serve() -> None:
        server = make_server(redis_url, tell, queues=queues, retry_delay=lambda *_: 0)
        tell(Event(event="ready"))
        await server.run(handlers(tell))

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    asyncio.run(serve())


def _end_with_stdin() -> None:
    """Whoever started this process and has gone without a word leaves its stdin closed."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
