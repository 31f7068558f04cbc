from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker import sentinel_line, sentinels
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.sentinel_line import Answer, View
from asynqpy.broker.sentinels import MasterDownError, Sentinels, choose
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.topologies.sentinel import MASTER, start_sentinel

OLD, NEW = Endpoint("10.0.0.1", 6379), Endpoint("10.0.0.2", 6379)
AWAY = RedisConnectionError("Error 111 connecting to 10.0.0.9:26379. Connect call failed.")


def chosen(*answers: Answer, known: View | None = None) -> Endpoint:
    places = [Endpoint("10.0.0.9", 26379 + number) for number in range(len(answers))]
    return choose(MASTER, dict(zip(places, answers, strict=True)), known).address


def view(epoch: int, address: Endpoint, *, is_down: bool = False) -> View:
    return View(epoch, address, is_down)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_latest_decision_counts_though_most_do_not_know_it_yet(place: int) -> None:
    answers = [view(1, OLD), view(1, OLD)]
    answers.insert(place, view(2, NEW))
    assert chosen(*answers) == NEW


def test_one_that_still_sees_the_master_is_enough() -> None:
    assert chosen(view(1, OLD, is_down=True), view(1, OLD), AWAY) == OLD


def test_a_master_that_is_down_in_the_eyes_of_all_who_know_of_it_is_not_tried() -> None:
    with pytest.raises(MasterDownError, match=r"10\.0\.0\.2:6379, is down"):
        chosen(view(2, NEW, is_down=True), view(1, OLD))


def test_one_that_is_left_with_a_master_of_the_past_does_not_count() -> None:
    known = view(2, NEW)
    with pytest.raises(MasterNotFoundError, match=r"of the past, 10\.0\.0\.1:6379") as caught:
        chosen(view(1, OLD), AWAY, AWAY, known=known)
    assert "10.0.0.9:26380 - Error 111" in str(caught.value)
    with pytest.raises(MasterNotFoundError):
        chosen(view(1, OLD), view(1, OLD), AWAY, known=known)


def test_sentinels_that_were_set_up_anew_are_believed_when_all_agree() -> None:
    assert chosen(view(0, OLD), view(0, OLD), view(0, OLD), known=view(2, NEW)) == OLD


def test_what_is_known_stays_true_when_few_answer() -> None:
    assert chosen(view(2, NEW), AWAY, AWAY, known=view(2, NEW)) == NEW


def test_silence_of_all_names_each_and_why() -> None:
    unknown = ResponseError("No such master with that name")
    with pytest.raises(MasterNotFoundError) as caught:
        chosen(AWAY, unknown)
    assert str(caught.value) == (
        "no sentinel names a master 'mymaster': "
        "10.0.0.9:26379 - Error 111 connecting to 10.0.0.9:26379. Connect call failed; "
        "10.0.0.9:26380 - No such master with that name"
    )


def test_a_wrong_password_is_told_as_such() -> None:
    with pytest.raises(AuthenticationError, match=r"other credentials: .* 10\.0\.0\.9:26380 - no"):
        chosen(AWAY, AuthenticationError("no"))


def test_a_user_who_may_not_ask_is_told_as_such() -> None:
    with pytest.raises(AuthenticationError, match=r"10\.0\.0\.9:26380 - no permissions"):
        chosen(AWAY, NoPermissionError("no permissions to run the 'sentinel' command"))


# With real sentinels.


@pytest.fixture(scope="module")
def masters() -> Iterator[list[RedisProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(start_redis()) for _ in range(2)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Known:
    def __init__(self) -> None:
        self.view: View | None = None
        self.learned: list[View] = []

    def learn(self, view: View, instead_of: View | None) -> bool:
        if self.view != instead_of:
            return False
        self.view = view
        self.learned.append(view)
        return True


@asynccontextmanager
async def asked(*ports: int) -> AsyncIterator[tuple[Sentinels, Known]]:
    pools = {
        Endpoint(HOST, port): ConnectionPool(Connection, host=HOST, port=port, protocol=2)
        for port in ports
    }
    known = Known()
    everybody = Sentinels(MASTER, pools, lambda: known.view, known.learn)
    everybody.start()
    yield everybody, known
    await asyncio.wait(everybody.stop())


def watching(stack: ExitStack, master: RedisProcess, epoch: int, **options: Any) -> RedisProcess:
    config = f"sentinel config-epoch {MASTER} {epoch}"
    return stack.enter_context(start_sentinel(master.port, MASTER, 1, config, **options))


async def test_a_sentinel_that_is_behind_does_not_win(
    stack: ExitStack, masters: list[RedisProcess]
) -> None:
    old, new = masters
    behind = [watching(stack, old, epoch=3) for _ in range(2)]
    ahead = watching(stack, new, epoch=4)
    async with asked(behind[0].port, ahead.port, behind[1].port) as (everybody, known):
        assert await everybody.find() == (HOST, new.port)
        ahead.kill()
        with pytest.raises(MasterNotFoundError, match="a master of the past"):
            await everybody.find(anew=True)
        assert {it.address.port for it in known.learned} == {new.port}


async def test_an_answer_serves_all_who_ask_within_a_moment(
    stack: ExitStack, masters: list[RedisProcess]
) -> None:
    sentinel = watching(stack, masters[0], epoch=1)
    async with asked(sentinel.port) as (everybody, known):
        found = await asyncio.gather(*(everybody.find() for _ in range(20)))
        assert set(found) == {(HOST, masters[0].port)}
        assert len(known.learned) == 1
        await everybody.find(anew=True)
        assert len(known.learned) == 2


async def test_a_sentinel_that_may_not_be_asked_refuses(
    stack: ExitStack, masters: list[RedisProcess]
) -> None:
    sentinel = watching(stack, masters[0], epoch=1)
    sentinel.ask("ACL", "SETUSER", "default", "-sentinel")
    async with asked(sentinel.port) as (everybody, _):
        with pytest.raises(AuthenticationError, match="no permissions"):
            await everybody.find()


async def test_an_answer_of_the_past_is_not_fresh_again_when_who_asks_gives_up(
    stack: ExitStack, masters: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = watching(stack, masters[0], epoch=1)
    async with asked(sentinel.port) as (everybody, _):
        await everybody.find()
        honest, is_asked = everybody._ask, asyncio.Event()

        async def ask() -> dict[Endpoint, Answer]:
            is_asked.set()
            return await honest()

        monkeypatch.setattr(everybody, "_ask", ask)
        impatient = asyncio.create_task(everybody.find(anew=True))
        await is_asked.wait()
        impatient.cancel()
        await asyncio.wait([impatient])
        is_asked.clear()
        await everybody.find()
        assert is_asked.is_set()


async def test_one_that_answers_nothing_holds_up_nobody_for_long(
    stack: ExitStack, masters: list[RedisProcess]
) -> None:
    loop = asyncio.get_running_loop()
    frozen = watching(stack, masters[0], epoch=1)
    others = [watching(stack, masters[0], epoch=1) for _ in range(2)]
    frozen.pause()
    async with asked(frozen.port, *(it.port for it in others)) as (everybody, _):
        began = loop.time()
        assert await everybody.find() == (HOST, masters[0].port)
        assert loop.time() - began < sentinel_line.ANSWER_TIMEOUT
    frozen.resume()


async def test_what_another_event_loop_has_learned_meanwhile_is_not_undone(
    stack: ExitStack, masters: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = watching(stack, masters[0], epoch=1)
    async with asked(sentinel.port, free_port()) as (everybody, known):
        learn_first(monkeypatch, everybody, lambda: known.learn(View(9, NEW, False), None))
        with pytest.raises(MasterNotFoundError, match="a master of the past"):
            await everybody.find()
        assert known.view == View(9, NEW, False)


async def test_an_answer_of_a_moment_ago_does_not_count_any_more_when_others_know_better(
    stack: ExitStack, masters: list[RedisProcess]
) -> None:
    sentinel = watching(stack, masters[0], epoch=1)
    async with asked(sentinel.port, free_port()) as (everybody, known):
        await everybody.find()
        assert known.learn(View(9, NEW, False), known.view)
        with pytest.raises(MasterNotFoundError, match="a master of the past"):
            await everybody.find()


def learn_first(
    monkeypatch: pytest.MonkeyPatch, everybody: Sentinels, learn: Callable[[], object]
) -> None:
    """Have something learned while they are asked for the first time."""
    honest, times = everybody._ask, iter([learn])

    async def ask() -> dict[Endpoint, Answer]:
        answers = await honest()
        for it in times:
            it()
        return answers

    monkeypatch.setattr(everybody, "_ask", ask)


async def test_they_are_asked_now_and_then_though_nobody_wants_to_know(
    stack: ExitStack, masters: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinels, "_LOOK_AFTER", 0.01)
    sentinel = watching(stack, masters[0], epoch=1)
    async with asked(sentinel.port) as (_, known):
        await eventually(lambda: len(known.learned) >= 3)


async def test_nothing_is_left_when_they_are_stopped(masters: list[RedisProcess]) -> None:
    before = asyncio.all_tasks()
    async with asked(free_port(), free_port()) as (everybody, _):
        with pytest.raises(MasterNotFoundError):
            await everybody.find()
    assert asyncio.all_tasks() == before
