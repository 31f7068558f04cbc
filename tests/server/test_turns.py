from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server import turns as module
from asynqpy.server.turns import Turns
from tests.eventually import eventually


class Book:
    """What happened to the turns of a test, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.go_on = asyncio.Event()

    async def turn(self, name: str, error: Exception | None = None) -> None:
        self.lines.append(f"{name} begun")
        try:
            await self.go_on.wait()
            if error is not None:
                raise error
        finally:
            self.lines.append(f"{name} ended")

    def wake(self) -> None:
        self.lines.append("woken")


async def test_a_turn_has_begun_when_start_returns_and_wakes_as_it_ends() -> None:
    book = Book()
    turns = Turns(book.wake)
    await turns.start(book.turn("one"))
    await turns.start(book.turn("two"))
    assert (book.lines, len(turns)) == (["one begun", "two begun"], 2)
    book.go_on.set()
    await turns.end()
    await asyncio.sleep(0)
    assert sorted(book.lines[2:]) == ["one ended", "two ended", "woken", "woken"]
    assert len(turns) == 0


async def test_what_went_wrong_is_raised_once_and_of_several_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book()
    turns = Turns(book.wake)
    errors = [BrokerUnavailableError("first"), ValueError("second")]
    for error in errors:
        await turns.start(book.turn("one", error))
    turns.check()
    book.go_on.set()
    await eventually(lambda: not turns)
    with pytest.raises(BrokerUnavailableError, match="first"):
        turns.check()
    turns.check()
    assert "a turn failed: second" in caplog.text


async def test_a_turn_that_somebody_cancelled_is_told_as_such() -> None:
    book = Book()
    turns = Turns(book.wake)
    await turns.start(book.turn("one"))
    (job,) = (it for it in asyncio.all_tasks() if it.get_name() == "asynqpy:turn")
    job.cancel()
    await asyncio.wait([job])
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        turns.check()


async def test_a_cancelled_end_cancels_them_and_leaves_none() -> None:
    book = Book()
    turns = Turns(book.wake)
    await turns.start(book.turn("one"))
    await turns.start(book.turn("two"))
    ending = asyncio.create_task(turns.end())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert {"one ended", "two ended"} < set(book.lines)
    assert len(turns) == 0


async def test_an_end_that_is_cancelled_again_still_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py loses a cancellation while it connects."""
    monkeypatch.setattr(module, "CANCEL_AGAIN", 0.01)
    told: list[str] = []

    async def deaf_once(name: str) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            told.append(name)

    turns = Turns(lambda: None)
    for name in ("one", "two"):
        await turns.start(deaf_once(name))
    ending = asyncio.create_task(turns.end())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert (sorted(told), len(turns)) == (["one", "two"], 0)


async def test_a_start_that_is_cancelled_at_once_has_begun_the_turn_all_the_same() -> None:
    book = Book()
    turns = Turns(book.wake)
    starting = asyncio.create_task(turns.start(book.turn("one")))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert book.lines == ["one begun"]
    book.go_on.set()
    await turns.end()


async def test_end_logs_what_is_no_fault_of_redis(caplog: pytest.LogCaptureFixture) -> None:
    book = Book()
    turns = Turns(book.wake)
    await turns.start(book.turn("one", BrokerError("of Redis")))
    await turns.start(book.turn("two", ValueError("of ours")))
    book.go_on.set()
    with caplog.at_level(logging.INFO, logger="asynqpy.server"):
        await turns.end()
    assert [record.message for record in caplog.records] == ["a turn failed: of ours"]
    turns.check()
