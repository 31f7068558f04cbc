"""Lines that come through a pipe or a socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import FileIO

#: Bytes of a line at most; what is longer comes in pieces.
_LONGEST_LINE = 65_536

#: Seconds that the end of the lines may take once nobody is expected to write: another process may have inherited
#: the other side.
_REST = 1.0


def _nothing() -> None:
    pass


@asynccontextmanager
async def reading_lines(
    source: socket.socket | FileIO,
    on_line: Callable[[bytes], None],
    on_unheard: Callable[[], None] = _nothing,
) -> AsyncIterator[None]:
    """Call ``on_line`` for each line while the block runs, and then for what is left. Closes the source.

    ``on_unheard`` is called when the other side of a socket has ended without having read what it was told.
    """
    reader = _Reader(on_line, on_unheard)
    transport = await _connect(reader, source)
    try:
        yield
    finally:
        try:
            await asyncio.wait([reader.ended], timeout=_REST)
        finally:
            transport.close()
        await reader.ended


async def _connect(reader: _Reader, source: socket.socket | FileIO) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    if isinstance(source, socket.socket):
        # A socket whose other side has left something unread ends with an error, which is none to this transport.
        transport: asyncio.BaseTransport
        transport, _ = await loop.connect_accepted_socket(lambda: reader, source)
    else:
        transport, _ = await loop.connect_read_pipe(lambda: reader, source)
    return transport


class _Reader(asyncio.Protocol):
    def __init__(self, on_line: Callable[[bytes], None], on_unheard: Callable[[], None]) -> None:
        self._on_line = on_line
        self._on_unheard = on_unheard
        self._rest = b""
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        while len(self._rest) > _LONGEST_LINE:
            self._on_line(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]

    def connection_lost(self, error: Exception | None) -> None:
        if self._rest:
            self._on_line(self._rest)
            self._rest = b""
        if isinstance(error, ConnectionResetError):
            self._on_unheard()
        if not self.ended.done():
            self.ended.set_result(None)
