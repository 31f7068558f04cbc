from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from tests.redis_process import HOST


class RedisProxy:
    """Stands between a client and Redis, counts what passes, and loses replies on demand.

    While ``loses_replies`` is set, the connection is cut as soon as Redis has answered: what was asked has
    been done, and the client cannot know.
    """

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.loses_replies = False
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://{HOST}:{self._server.sockets[0].getsockname()[1]}/0"

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        from_redis, to_redis = await asyncio.open_connection(HOST, self._redis_port)
        forth = asyncio.create_task(self._pump(from_client, to_redis, is_reply=False))
        back = asyncio.create_task(self._pump(from_redis, to_client, is_reply=True))
        self._pumps |= {forth, back}
        await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        for pump in (forth, back):
            pump.cancel()
        for writer in (to_client, to_redis):
            writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await source.read(65_536):
            if is_reply and self.loses_replies:
                return
            if not is_reply:
                self.requests.append(data)
            sink.write(data)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
