from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server import service as service_module
from asynqpy.server.service import Service
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.lines import is_line
from tests.server.parts import EVERY_SERVICE


class Probe(Service):
    """Does with each tick what it was given for it, and nothing once that has run out."""

    longest_back_off = 0.004

    def __init__(
        self, *steps: Callable[[], Any], answer: float | None = None, **timing: Any
    ) -> None:
        super().__init__(**{"at_once": True, **timing})
        self._steps = list(steps)
        self._answer = answer
        self.ticks = 0
        self.finishes = 0

    async def tick(self) -> float | None:
        self.ticks += 1
        await asyncio.sleep(0)
        if self._steps:
            result = self._steps.pop(0)()
            if asyncio.iscoroutine(result):
                await result
        return self._answer

    async def finish(self) -> None:
        self.finishes += 1


def fails(error: Exception | None = None) -> None:
    raise error or ValueError("no")


def service_tasks() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith("asynqpy:") and not is_line(name)]


async def a_few_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Stopwatch:
    """Stands in for the ``time`` module: ticks take no time but what they say."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Waits of 1, 2, 4, 4, … ms."""
    stopwatch = Stopwatch()
    monkeypatch.setattr(service_module, "_FIRST_BACK_OFF", 0.001)
    monkeypatch.setattr(service_module, "time", stopwatch)
    return stopwatch


def waits(records: Iterable[logging.LogRecord]) -> list[float]:
    """The seconds that a service meant to wait after each of its failures, by its log."""
    return [
        record.args[1]
        for record in records
        if isinstance(record.args, tuple)
        and "next attempt" in str(record.msg)
        and isinstance(record.args[1], float)
    ]


# The contract of start and stop, for every service there is.


@pytest.mark.parametrize("name", EVERY_SERVICE)
async def test_service_starts_and_stops_fifty_times_at_any_moment(
    name: str, broker: FlakyBroker
) -> None:
    asyncio.get_running_loop().set_debug(False)
    service = EVERY_SERVICE[name](broker)
    for n in range(50):
        service.start()
        await asyncio.sleep(n / 20_000)
        if n % 3:
            service.wake()
        async with asyncio.timeout(2):
            await service.stop()
        assert service_tasks() == []


@pytest.mark.parametrize("name", EVERY_SERVICE)
async def test_service_may_be_stopped_before_the_start_and_twice(
    name: str, broker: FlakyBroker
) -> None:
    service = EVERY_SERVICE[name](broker)
    await service.stop()
    service.start()
    await service.stop()
    await service.stop()
    assert service_tasks() == []


@pytest.mark.parametrize("name", EVERY_SERVICE)
async def test_second_start_does_nothing(name: str, broker: FlakyBroker) -> None:
    service = EVERY_SERVICE[name](broker)
    service.start()
    service.start()
    assert service_tasks() == [f"asynqpy:{name}"]
    await service.stop()


@pytest.mark.parametrize("name", EVERY_SERVICE)
async def test_both_of_two_stops_at_once_return_when_it_has_stopped(
    name: str, broker: FlakyBroker
) -> None:
    service = EVERY_SERVICE[name](broker)
    service.start()
    await a_few_turns()
    await asyncio.gather(service.stop(), service.stop())
    assert service_tasks() == []


@pytest.mark.parametrize("name", EVERY_SERVICE)
async def test_service_stops_while_redis_is_away(name: str, broker: FlakyBroker) -> None:
    broker.down()
    service = EVERY_SERVICE[name](broker)
    service.start()
    await a_few_turns()
    async with asyncio.timeout(2):
        await service.stop()


# What the loop does, shown with a service of the test's own.


async def test_first_tick_comes_at_once_or_after_one_interval() -> None:
    eager, patient = Probe(interval=60), Probe(interval=60, at_once=False)
    for service in (eager, patient):
        service.start()
    await a_few_turns()
    for service in (eager, patient):
        await service.stop()
    assert (eager.ticks, patient.ticks) == (1, 0)


async def test_ticks_follow_the_interval() -> None:
    service = Probe(interval=0.001)
    service.start()
    await eventually(lambda: service.ticks >= 5)
    await service.stop()


async def test_answer_of_a_tick_replaces_the_interval() -> None:
    hurried, halted = Probe(interval=60, answer=0.0), Probe(interval=0.001, answer=math.inf)
    for service in (hurried, halted):
        service.start()
    await eventually(lambda: hurried.ticks >= 5)
    for service in (hurried, halted):
        await service.stop()
    assert halted.ticks == 1


async def test_wake_ends_the_interval() -> None:
    service = Probe(interval=60)
    service.start()
    await eventually(lambda: service.ticks == 1)
    service.wake()
    await eventually(lambda: service.ticks == 2)
    await a_few_turns()
    assert service.ticks == 2
    await service.stop()


async def test_wake_during_a_tick_brings_another_tick() -> None:
    service = Probe(lambda: service.wake(), interval=60)
    service.start()
    await eventually(lambda: service.ticks == 2)
    await service.stop()


async def test_stop_before_the_first_step_ticks_not_at_all_but_finishes() -> None:
    service = Probe()
    service.start()
    await service.stop()
    assert (service.ticks, service.finishes) == (0, 1)


async def test_stop_lets_a_tick_under_way_end() -> None:
    step = asyncio.Event()
    service = Probe(step.wait)
    service.start()
    await eventually(lambda: service.ticks == 1)
    stopping = asyncio.create_task(service.stop())
    await a_few_turns()
    assert not stopping.done()
    step.set()
    await stopping
    assert service.finishes == 1


async def test_stop_cuts_short_an_interruptible_tick() -> None:
    class Interruptible(Probe):
        interruptible = True

    service = Interruptible(asyncio.Event().wait)
    service.start()
    await eventually(lambda: service.ticks == 1)
    await service.stop()
    assert service.finishes == 1


async def test_cancellation_that_a_library_swallowed_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Swallowing(Probe):
        interruptible = True

    async def swallows() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(service_module, "CANCEL_AGAIN", 0.001)
    service = Swallowing(swallows)
    service.start()
    await eventually(lambda: service.ticks == 1)
    async with asyncio.timeout(1):
        await service.stop()


async def test_patient_stop_lets_a_tick_end_within_its_patience() -> None:
    step, ended = asyncio.Event(), asyncio.Event()

    async def takes_its_time() -> None:
        await step.wait()
        ended.set()

    service = Probe(takes_its_time)
    service.start()
    await eventually(lambda: service.ticks == 1)
    stopping = asyncio.create_task(service.stop(60))
    await a_few_turns()
    step.set()
    await stopping
    assert ended.is_set()


@pytest.mark.parametrize("finish_hangs", [False, True])
async def test_stop_that_loses_its_patience_cancels_a_tick_and_a_finish_that_hang(
    monkeypatch: pytest.MonkeyPatch, finish_hangs: bool
) -> None:
    class Hanging(Probe):
        async def finish(self) -> None:
            await super().finish()
            if finish_hangs:
                await asyncio.Event().wait()

    monkeypatch.setattr(service_module, "CANCEL_AGAIN", 0.01)
    service = Hanging(asyncio.Event().wait)
    service.start()
    await eventually(lambda: service.ticks == 1)
    async with asyncio.timeout(1):
        await service.stop(0.01)
    assert service.finishes == 1
    assert service_tasks() == []


@pytest.mark.usefixtures("quick_back_off")
async def test_cancelled_error_that_nobody_asked_for_is_a_failure_like_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def awaits_cancelled() -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        inner.cancel()
        await inner

    service = Probe(awaits_cancelled, awaits_cancelled)
    service.start()
    await eventually(lambda: service.ticks == 3)
    assert len(waits(caplog.records)) == 2
    await service.stop()
    assert service.finishes == 1


async def test_service_that_is_cancelled_from_outside_ends_and_finishes() -> None:
    service = Probe(asyncio.Event().wait)
    service.start()
    await eventually(lambda: service.ticks == 1)
    (job,) = (task for task in asyncio.all_tasks() if task.get_name() == "asynqpy:probe")
    job.cancel()
    await eventually(job.cancelled)
    assert (service.ticks, service.finishes) == (1, 1)


async def test_caller_whose_stop_is_cancelled_is_cancelled_and_the_tick_is_not() -> None:
    step = asyncio.Event()
    service = Probe(step.wait)
    service.start()
    await eventually(lambda: service.ticks == 1)
    stopping = asyncio.create_task(service.stop())
    await a_few_turns()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    step.set()
    await service.stop()
    assert service.finishes == 1


async def test_service_may_be_started_again() -> None:
    service = Probe(interval=60)
    for _ in range(2):
        service.start()
        await a_few_turns()
        await service.stop()
    assert (service.ticks, service.finishes) == (2, 2)


@pytest.mark.usefixtures("quick_back_off")
async def test_failing_tick_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = Probe(fails, fails)
    service.start()
    await eventually(lambda: service.ticks == 3)
    await service.stop()
    levels = [record.levelname for record in caplog.records if "probe" in record.getMessage()]
    assert levels == ["ERROR", "ERROR", "INFO"]
    assert "probe works again" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("quick_back_off")
async def test_refusal_of_redis_is_a_warning_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Probe(lambda: fails(BrokerError("no")))
    service.start()
    await eventually(lambda: service.ticks == 2)
    await service.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("quick_back_off")
async def test_redis_away_is_left_to_the_circuit_breaker_to_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "asynqpy.server")
    service = Probe(lambda: fails(BrokerUnavailableError("away")))
    service.start()
    await eventually(lambda: service.ticks == 2)
    await service.stop()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert {level for level, _ in told} == {"DEBUG"}
    assert "probe failed" in told[0][1]
    assert told[1][1] == "probe works again"


@pytest.mark.usefixtures("quick_back_off")
async def test_back_off_doubles_up_to_a_limit_and_is_spread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Probe(*[fails] * 5)
    service.start()
    await eventually(lambda: service.ticks == 6)
    await service.stop()
    expected = [0.001, 0.002, 0.004, 0.004, 0.004]
    for wait, middle in zip(waits(caplog.records), expected, strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle


@pytest.mark.usefixtures("quick_back_off")
async def test_success_makes_the_next_failure_a_first_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Probe(fails, fails, lambda: None, fails, answer=0.0)
    service.start()
    await eventually(lambda: service.ticks >= 5)
    await service.stop()
    assert waits(caplog.records)[2] <= 0.00125


async def test_failure_of_a_tick_that_held_for_long_is_a_first_one(
    caplog: pytest.LogCaptureFixture, quick_back_off: Stopwatch
) -> None:
    caplog.set_level(logging.DEBUG, "asynqpy.server")

    def holds() -> None:
        quick_back_off.seconds += 0.005
        fails(BrokerUnavailableError("the connection broke"))

    service = Probe(holds, holds, holds)
    service.start()
    await eventually(lambda: service.ticks == 4)
    await service.stop()
    assert len(waits(caplog.records)) == 3
    assert max(waits(caplog.records)) <= 0.00125


async def test_wake_does_not_shorten_the_back_off_but_stop_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "_FIRST_BACK_OFF", 60.0)
    service = Probe(fails)
    service.longest_back_off = 60.0
    service.start()
    await eventually(lambda: service.ticks == 1)
    service.wake()
    await a_few_turns()
    assert service.ticks == 1
    async with asyncio.timeout(1):
        await service.stop()


async def test_finish_that_fails_is_logged_and_stop_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unfinished(Probe):
        async def finish(self) -> None:
            raise ValueError("cannot let go")

    service = Unfinished()
    service.start()
    await service.stop()
    assert "unfinished did not stop cleanly: cannot let go" in caplog.text
