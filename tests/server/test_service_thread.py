from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from anyio import to_thread

from asynqpy.server.service import Service
from asynqpy.server.service_thread import ServiceThread
from tests.eventually import eventually

NAME = "asynqpy:test"


class Noting(Service):
    """Notes the thread in which it ticks and finishes."""

    def __init__(self) -> None:
        super().__init__(interval=0.001, at_once=True)
        self.ticked_in: list[str] = []
        self.finished_in: list[str] = []

    async def tick(self) -> float | None:
        self.ticked_in.append(threading.current_thread().name)
        return None

    async def finish(self) -> None:
        self.finished_in.append(threading.current_thread().name)


def a_thread(*services: Service, needed: bool = True) -> ServiceThread:
    return ServiceThread(services, name=NAME, is_needed=lambda: needed)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == NAME]


async def test_services_run_in_a_thread_of_that_name() -> None:
    services = [Noting(), Noting()]
    thread = a_thread(*services)
    thread.start()
    await eventually(lambda: all(service.ticked_in for service in services))
    await thread.stop()
    for service in services:
        assert set(service.ticked_in) == {NAME}
        assert service.finished_in == [NAME]


async def test_services_go_on_while_the_main_loop_is_blocked() -> None:
    service = Noting()
    thread = a_thread(service)
    thread.start()
    await eventually(lambda: service.ticked_in)
    before, deadline = len(service.ticked_in), time.monotonic() + 5
    while len(service.ticked_in) < before + 10 and time.monotonic() < deadline:
        time.sleep(0.001)  # noqa: ASYNC251 - blocking is the point
    await thread.stop()
    assert len(service.ticked_in) >= before + 10


async def test_stop_returns_when_services_and_thread_have_ended() -> None:
    service = Noting()
    thread = a_thread(service)
    for n in range(50):
        thread.start()
        await asyncio.sleep(n / 20_000)
        await thread.stop()
        assert threads() == []
        assert len(service.finished_in) == n + 1


async def test_starts_and_stops_that_change_nothing_do_nothing() -> None:
    thread = a_thread(Noting())
    await thread.stop()
    thread.start()
    thread.start()
    assert threads() == [NAME]
    await thread.stop()
    await thread.stop()
    assert threads() == []


async def test_thread_whose_loop_does_not_start_is_told_and_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(serving: Coroutine[Any, Any, None]) -> None:
        serving.close()
        raise OSError("too many open files")

    service = Noting()
    thread = a_thread(service)
    for is_first in (True, False):  # also when it had worked before
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "run", fails)
            thread.start()
            async with asyncio.timeout(5):
                await thread.stop()
        (record,) = caplog.records
        assert record.levelname == "CRITICAL"
        assert "too many open files" in caplog.text
        assert threads() == []
        caplog.clear()
        if is_first:
            thread.start()
            await eventually(lambda: service.ticked_in)
            await thread.stop()


async def test_stop_needs_none_of_the_threads_of_the_application() -> None:
    thread = a_thread(Noting())
    thread.start()
    common = to_thread.current_default_thread_limiter()
    tokens = common.total_tokens
    common.total_tokens = 1
    try:
        async with common, asyncio.timeout(5):
            await thread.stop()
    finally:
        common.total_tokens = tokens
    assert threads() == []


async def test_stop_that_loses_its_patience_ends_a_service_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(Noting):
        async def tick(self) -> float | None:
            await super().tick()
            await asyncio.Event().wait()
            return None

    service = Hanging()
    thread = a_thread(service)
    thread.start()
    await eventually(lambda: service.ticked_in)
    async with asyncio.timeout(5):
        await thread.stop(0.01)
    assert service.finished_in == [NAME]
    assert threads() == []


async def test_thread_that_is_needed_no_longer_ends_by_itself_and_may_still_be_stopped() -> None:
    service = Noting()
    thread = a_thread(service, needed=False)
    thread.start()
    await eventually(lambda: service.finished_in)
    await eventually(lambda: threads() == [])
    await thread.stop()
