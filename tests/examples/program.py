"""An example as its readers run it: ``python -m examples.…`` from the root of the repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
_TIMEOUT = 60.0


class Program:
    """A running example. A context manager that ends it as Ctrl-C does, and wants status 0."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self.module = module
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=_environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait(self) -> None:
        """Wait for it to end by itself."""
        try:
            status = self._process.wait(_TIMEOUT)
        finally:
            self._process.kill()
            self._reader.join()
        assert status == 0, self.output

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self.wait()


def run(module: str, *arguments: str, **environment: str) -> Program:
    """An example that has ended by itself, with status 0."""
    program = Program(module, *arguments, **environment)
    program.wait()
    return program


def _environment() -> dict[str, str]:
    """The root comes first on the path: an interpreter may have another checkout installed."""
    return {n: v for n, v in os.environ.items() if n != "REDIS_URL"} | {"PYTHONPATH": str(ROOT)}
