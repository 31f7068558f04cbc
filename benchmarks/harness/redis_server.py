"""The Redis that is measured against: private, in memory, flushed between rounds; what it spent is read from it.

It may be several servers: what is read is their sum, and what is asked of one is asked of the first.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Self

import redis

from asynqpy import EmbeddedServer

#: Commands that run scripts: their time holds that of the commands that they call.
_SCRIPTS = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall")


#: What INFO says while Redis writes its data to a new file.
_REWRITING = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")


@dataclass(frozen=True)
class Spent:
    """What Redis spent between two readings.

    - ``cpu_us``: CPU time of its main threads, us: reading, executing and answering;
    - ``script_us``: time in scripts alone, us;
    - ``commands``: commands that it executed, those of scripts included.
    """

    cpu_us: float
    script_us: float
    commands: int


@dataclass(frozen=True)
class Running:
    """Servers that run: how clients reach them, the ports of those that hold the data, and of sentinels."""

    url: str
    ports: Sequence[int]
    sentinels: Sequence[int] = ()


@contextlib.contextmanager
def standalone() -> Iterator[Running]:
    with EmbeddedServer() as server:
        yield Running(server.url, [server.port])


class BenchRedis:
    """A Redis from start to end of the context."""

    def __init__(self, start: Callable[[], AbstractContextManager[Running]] = standalone) -> None:
        self._start = start

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._running = stack.enter_context(self._start())
            self._admins = [redis.Redis(port=port, protocol=2) for port in self._running.ports]
            for admin in self._admins:
                stack.callback(admin.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _admin(self) -> redis.Redis:
        return self._admins[0]

    @property
    def url(self) -> str:
        return self._running.url

    def info(self, section: str) -> dict[str, Any]:
        return self._admin.info(section)

    @property
    def version(self) -> str:
        """Such as ``Redis 7.0.15`` or ``Valkey 9.1.2``."""
        server = self.info("server")
        if "valkey_version" in server:
            return f"Valkey {server['valkey_version']}"
        return f"Redis {server['redis_version']}"

    def flush(self) -> None:
        for admin in self._admins:
            admin.flushall()

    def count(self, key: str) -> int:
        """The length of a list."""
        return int(self._admin.llen(key))

    def commands_sent(self, seconds: float) -> int:
        """How many commands clients send in so many seconds: those of scripts and of this watch do not count."""
        until = time.monotonic() + seconds
        seen = b""
        with socket.create_connection(("127.0.0.1", self._running.ports[0])) as watch:
            watch.sendall(b"MONITOR\r\n")
            while (left := until - time.monotonic()) > 0:
                watch.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    seen += watch.recv(65_536)
        return sum(1 for line in seen.splitlines() if line[:2] == b"+1" and b" lua]" not in line)

    @contextlib.contextmanager
    def configured(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Other settings while the context lasts; waits for the file that an append-only one begins with."""
        before = {name: str(self._admin.config_get(name)[name]) for name in settings}
        self._set(settings)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, settings: Mapping[str, str]) -> None:
        for name, value in settings.items():
            self._admin.config_set(name, value)
        while any(self.info("persistence")[name] for name in _REWRITING):
            time.sleep(0.01)

    def start_counting(self) -> None:
        for admin in self._admins:
            admin.config_resetstat()
        self._cpu_at_start = self._cpu_us()

    def spent(self) -> Spent:
        """Since ``start_counting``."""
        cpu = self._cpu_us() - self._cpu_at_start
        stats = [stat for admin in self._admins for stat in admin.info("commandstats").items()]
        return Spent(
            cpu_us=cpu,
            script_us=sum(float(of["usec"]) for name, of in stats if name in _SCRIPTS),
            commands=sum(int(of["calls"]) for _, of in stats),
        )

    def _cpu_us(self) -> float:
        return sum(_cpu_us(admin.info("cpu")) for admin in self._admins)


def _cpu_us(cpu: Mapping[str, Any]) -> float:
    user, system = (
        cpu.get(f"used_cpu_{kind}_main_thread", cpu[f"used_cpu_{kind}"]) for kind in ("user", "sys")
    )
    return 1e6 * (float(user) + float(system))
