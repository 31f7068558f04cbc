"""A master with replicas and no sentinel: they may be frozen, so that they get nothing and stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.asyncio import Redis

from tests.redis_process import HOST, RedisProcess
from tests.topologies.sentinel import Replicated


class Replicas:
    """A master with two replicas. A frozen one has all that was written before."""

    def __init__(self, servers: list[RedisProcess]) -> None:
        self.master, *self.all = servers

    @property
    def url(self) -> str:
        return self.master.url

    def client(self) -> Redis:
        """One that shows what the master has: bytes, in RESP2."""
        return client_of(self.master)

    def confirmed(self) -> int:
        """How many have all that there is, once those that answer have caught up."""
        answering = sum(replica.is_answering for replica in self.all)
        # A write, as some servers wait for the last one of the connection only.
        script = "redis.call('SET', KEYS[1], '') return redis.call('DEL', KEYS[1])"
        with redis.Redis(port=self.master.port, single_connection_client=True) as client:
            client.eval(script, 1, "asynqpy:probe:replicas")
            return int(client.wait(answering, 10_000))

    @contextmanager
    def frozen(self, count: int = 2) -> Iterator[None]:
        """So many of them until the end of the block, or until ``thaw``."""
        self.confirmed()
        for replica in self.all[:count]:
            replica.pause()
        try:
            yield
        finally:
            self.thaw()

    def thaw(self) -> None:
        for replica in self.all:
            if replica.is_running and not replica.is_answering:
                replica.resume()

    def ask_all(self, *command: str) -> list[Any]:
        """The answers of the replicas."""
        return [replica.ask(*command) for replica in self.all]

    def empty(self) -> None:
        self.master.ask("FLUSHALL")
        self.master.ask("SCRIPT", "FLUSH")
        self.confirmed()


@contextmanager
def start_replicas() -> Iterator[Replicas]:
    with Replicated() as replicated:
        # No pings, which count as something that the replicas have yet to get.
        replicated.start_servers(3, ("--repl-ping-replica-period", "3600"))
        yield Replicas(replicated.servers)


def client_of(server: RedisProcess) -> Redis:
    return Redis(host=HOST, port=server.port, protocol=2)
