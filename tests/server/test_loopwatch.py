from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from asynqpy.server.loopwatch import LoopWatch


class OtherLoop:
    """An event loop in a thread of its own, which a test can block and let go."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._go_on = threading.Event()
        self._blocked = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.thread_id = self._thread.ident or 0

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def block(self, name: str) -> None:
        """Block it in a task of that name; returns once it is."""

        async def culprit() -> None:
            self._blocked.set()
            self._go_on.wait()

        def create() -> None:
            self.task = self.loop.create_task(culprit(), name=name)

        self.loop.call_soon_threadsafe(create)
        self._blocked.wait()

    def block_outside_of_any_task(self) -> None:
        def callback() -> None:
            self._blocked.set()
            self._go_on.wait()

        self.loop.call_soon_threadsafe(callback)
        self._blocked.wait()

    def let_go(self) -> None:
        """Returns when it has done all it was asked before."""
        self._go_on.set()
        self.answer()
        self._go_on.clear()
        self._blocked.clear()

    def answer(self) -> None:
        done = threading.Event()
        self.loop.call_soon_threadsafe(done.set)
        done.wait()

    def stop(self) -> None:
        self._go_on.set()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


@pytest.fixture
def other() -> Iterator[OtherLoop]:
    loop = OtherLoop()
    yield loop
    loop.stop()


def a_watch(other: OtherLoop) -> LoopWatch:
    return LoopWatch(server_loop=other.loop, thread_id=other.thread_id, blocked_after=0.01)


async def ticks_until_silence_counts(watch: LoopWatch) -> None:
    await watch.tick()
    time.sleep(0.02)  # noqa: ASYNC251 - it measures real time
    await watch.tick()


async def test_loop_that_answers_is_not_reported(
    other: OtherLoop, caplog: pytest.LogCaptureFixture
) -> None:
    watch = a_watch(other)
    for _ in range(3):
        await watch.tick()
        other.answer()
    assert caplog.records == []


async def test_blocked_loop_is_reported_once_with_the_task_and_its_stack(
    other: OtherLoop, caplog: pytest.LogCaptureFixture
) -> None:
    watch = a_watch(other)
    other.block("asynqpy:task:report:monthly:t1")
    await ticks_until_silence_counts(watch)
    await watch.tick()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "blocked for 0.0 s by asynqpy:task:report:monthly:t1" in record.getMessage()
    assert "in culprit" in record.getMessage()
    assert "self._go_on.wait()" in record.getMessage()


async def test_blocked_loop_is_not_reported_before_its_time(
    other: OtherLoop, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LoopWatch(server_loop=other.loop, thread_id=other.thread_id, blocked_after=60)
    other.block("slow")
    for _ in range(3):
        await watch.tick()
    assert caplog.records == []


async def test_block_outside_of_any_task_is_reported_too(
    other: OtherLoop, caplog: pytest.LogCaptureFixture
) -> None:
    watch = a_watch(other)
    other.block_outside_of_any_task()
    await ticks_until_silence_counts(watch)
    assert "by something outside of any task" in caplog.text
    assert "in callback" in caplog.text


async def test_end_of_a_block_is_told_and_the_next_block_is_reported_again(
    other: OtherLoop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watch = a_watch(other)
    for _ in range(2):
        other.block("slow")
        await ticks_until_silence_counts(watch)
        other.let_go()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "WARNING"] * 2
    assert "the event loop runs again; it was blocked for" in caplog.text
