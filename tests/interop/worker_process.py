"""A worker in its own process, Go's or ours, followed by the events that it prints on stdout."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from tests.interop.events import Event, EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_LINE_LIMIT = 16 * 1024 * 1024
_SHUTDOWN_LIMIT = 20  # seconds; both servers give their tasks 8 of them


class WorkerProcess(EventLog):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self.pid = process.pid
        self._process = process
        self._reader = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def running(cls, *command: str, cwd: Path | None = None) -> AsyncIterator[WorkerProcess]:
        """The worker from its ``ready`` on; stopped with SIGTERM unless the test has killed it."""
        # It ends when its stdin is closed: also when this process dies without a word.
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=_LINE_LIMIT
        )
        worker = cls(process)
        try:
            await worker.event("ready")
            yield worker
        finally:
            await worker._stop()

    async def kill(self) -> None:
        """SIGKILL: leases and presence stay behind."""
        self._process.kill()
        await self._ended()

    async def _stop(self) -> None:
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(_SHUTDOWN_LIMIT):
                status = await self._ended()
        except TimeoutError:
            self._process.kill()
            raise
        assert status == 0, f"the worker ended with status {status}"

    async def _ended(self) -> int:
        await self._reader
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self.append(msgspec.json.decode(line, type=Event))
        finally:
            self.close()
