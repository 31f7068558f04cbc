from __future__ import annotations

import gc

from asynqpy.server.census import Census, Vitals, census
from asynqpy.server.server import Server
from tests.redis_process import free_port


class Member:
    def __init__(self, state: str) -> None:
        self._state = state

    def vitals(self) -> Vitals:
        return Vitals(self._state, 1, 10, 5, 8.0)


def test_census_tells_how_each_member_does() -> None:
    counted, members = Census(), [Member("active"), Member("closed")]
    for member in members:
        counted.enlist(member.vitals)
    assert [vitals.state for vitals in counted.take()] == ["active", "closed"]


def test_census_keeps_nobody_alive() -> None:
    counted, members = Census(), [Member("active"), Member("closed")]
    for member in members:
        counted.enlist(member.vitals)
    del members[0], member
    gc.collect()
    assert [vitals.state for vitals in counted.take()] == ["closed"]


def test_new_member_is_told_of_when_it_is_counted() -> None:
    counted, member = Census(), Member("new")
    told: list[list[Vitals]] = []
    counted.on_enlisted = lambda: told.append(counted.take())
    counted.enlist(member.vitals)
    assert told == [[member.vitals()]]


async def test_server_is_counted_from_its_start(redis_url: str) -> None:
    server = Server(redis_url, concurrency=7, shutdown_timeout=3)
    before = len(census.take())
    async with server.running(lambda task: None):
        assert census.take()[-1] == Vitals("active", 0, 7, 0, 3.0)
        await server.stop()
        assert census.take()[-1].state == "stopped"
    assert census.take()[-1].state == "closed"
    assert len(census.take()) == before + 1


async def test_server_that_keeps_trying_to_reach_redis_is_counted_too() -> None:
    server = Server(f"redis://127.0.0.1:{free_port()}")
    async with server.running(lambda task: None):
        assert census.take()[-1].state == "active"
