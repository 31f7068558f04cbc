"""Runs workers and producers: lines of JSON on stdout, commands by line on stdin, stderr kept for its last words."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.harness.installing import last_words

#: Exit status of a producer that lacks the mode it was asked for.
NO_SUCH_MODE = 3

#: Seconds that a process has to end after SIGTERM, and that its output has to arrive after its end.
_GRACE = 10.0
_LAST_OUTPUT = 2.0


class ContenderError(Exception):
    """A contender failed, or took too long; the text says how."""


class NoSuchMode(ContenderError):
    """The contender does not have what was asked for."""


class Process:
    """A worker or producer that runs, in a session of its own, so that its children end with it.

    A context manager that ends them. ``environment`` is added to the harness's own.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self.started_at = time.monotonic()
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by kill
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def say(self, line: str) -> None:
        """Write a line to its stdin. Raises ``ContenderError`` when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
        except OSError as error:
            raise self._failure() from error

    def hear(self, timeout: float) -> str:
        """The next line of its stdout. Raises ``ContenderError`` when it ends or is silent for ``timeout`` s."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ContenderError(f"no answer within {timeout:.0f} s") from None
        if line is None:
            raise self._failure()
        return line

    def expect(self, word: str, timeout: float) -> None:
        """Wait for a line that is this word."""
        if (line := self.hear(timeout)) != word:
            raise ContenderError(f"it said {line[:100]!r} instead of {word!r}")

    def answer(self, timeout: float) -> dict[str, Any]:
        """The next line, which is JSON."""
        line = self.hear(timeout)
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ContenderError(f"not JSON: {line[:100]!r}") from error

    def _failure(self) -> ContenderError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_OUTPUT)
        status = self._process.poll()
        if status == NO_SUCH_MODE:
            return NoSuchMode("no such way")
        self._stderr.seek(0)
        return ContenderError(f"ended with {status}: {last_words(self._stderr.read())}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for whatever of its session is left."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join(_LAST_OUTPUT)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self, timeout: float) -> None:
        """Wait until it has ended by itself, and well."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ContenderError(f"did not end within {timeout:.0f} s") from None
        if status:
            raise self._failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.stop()
        else:
            self.kill()
