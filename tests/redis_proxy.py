from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.redis_process import HOST, RedisProcess


@dataclass
class _Link:
    """What one connection has been through. Once a byte was swallowed, nothing may follow it: as on a dead line."""

    is_asked: bool = False
    request_lost: bool = False
    reply_lost: bool = False


class RedisProxy:
    """Stands between a client and Redis, counts what passes, and does harm on demand. All switches work at once.

    - ``refuses``: new connections are closed as soon as they are made, as they are while Redis itself is away.
    - ``loses_replies``: the connection is cut as soon as Redis has answered: what was asked has been done, and the
      client cannot know.
    - ``drop_replies``: the same with this probability (0 to 1) for each exchange, drawn from ``dice``; ``dropped``
      counts them.
    - ``delay``: seconds that everything takes in each direction.
    - ``swallows_requests``, ``swallows_replies``: what goes that way is taken and lost while the connection stays open.
      A connection that has lost a byte carries no more in that direction, also after the switch is off again.
    - ``connections`` counts the connections made by clients, ``requests`` has their bytes (when ``keeps_requests``).
    """

    def __init__(
        self, redis_port: int, *, dice: random.Random | None = None, keeps_requests: bool = True
    ) -> None:
        self.redis_port = redis_port
        self._redis_url = f"redis://{HOST}:{redis_port}/0"
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._dice = dice or random.Random(0)
        self._keeps_requests = keeps_requests
        self.refuses = False
        self.loses_replies = False
        self.drop_replies = 0.0
        self.delay = 0.0
        self.swallows_requests = False
        self.swallows_replies = False
        self.connections = 0
        self.dropped = 0
        self.requests: list[bytes] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """That of the server, but for the port."""
        return self._redis_url.replace(f":{self.redis_port}/", f":{self.port}/")

    @classmethod
    def before(cls, server: RedisProcess, *, dice: random.Random | None = None) -> Self:
        """One that stands before a server of the tests, which may speak TLS."""
        proxy = cls(server.port, dice=dice)
        proxy._redis_url = server.url
        return proxy

    def cut(self) -> None:
        """Close every connection there is; new ones are served."""
        for link in self._links:
            link.cancel()

    def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = asyncio.create_task(self._serve(from_client, to_client))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        writers = [to_client]
        pumps: list[asyncio.Task[None]] = []
        try:
            if self.refuses:
                return
            from_redis, to_redis = await asyncio.open_connection(HOST, self.redis_port)
            writers.append(to_redis)
            link = _Link()
            pumps += [
                asyncio.create_task(self._pump(link, from_client, to_redis, is_reply=False)),
                asyncio.create_task(self._pump(link, from_redis, to_client, is_reply=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            return  # Redis is away, or the connection was cut
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in writers:
                writer.close()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        """Carry bytes one way until either end closes; they arrive in order, each ``delay`` after it came."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(_deliver(under_way, sink))
        try:
            while data := await source.read(65_536):
                passes = self._passes_reply(link) if is_reply else self._passes_request(link, data)
                if passes is None:
                    return
                if passes:
                    under_way.put_nowait((loop.time() + self.delay, data))
            await under_way.join()
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    def _passes_request(self, link: _Link, data: bytes) -> bool:
        link.request_lost |= self.swallows_requests
        if link.request_lost:
            return False
        link.is_asked = True
        if self._keeps_requests:
            self.requests.append(data)
        return True

    def _passes_reply(self, link: _Link) -> bool | None:
        """Whether the client gets it; ``None`` when the connection is cut instead."""
        is_first, link.is_asked = link.is_asked, False
        if self.loses_replies or (is_first and self._dice.random() < self.drop_replies):
            self.dropped += 1
            return None
        link.reply_lost |= self.swallows_replies
        return not link.reply_lost

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        while self._links:
            self.cut()
            await asyncio.wait(self._links)


async def _deliver(
    under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, data = await under_way.get()
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        sink.write(data)
        await sink.drain()
        under_way.task_done()
