from __future__ import annotations

import asyncio
import threading
import time

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


async def test_thread_that_is_needed_no_longer_ends_by_itself_and_may_still_be_stopped() -> None:
    service = Noting()
    thread = a_thread(service, needed=False)
    thread.start()
    await eventually(lambda: service.finished_in)
    await eventually(lambda: threads() == [])
    await thread.stop()
