"""As much of HTTP as a scraper or a probe needs: GET and HEAD, one request a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import urlsplit

logger = logging.getLogger("asynqpy.metrics")

#: Bytes of a request, up to its blank line.
_LONGEST_HEAD = 16_384

#: Seconds that a client has for its request, and again to take the answer.
_PATIENCE = 5.0

#: Seconds that an answer may take to be made.
_WORKING_TIME = 30.0

#: Connections at once; more are told to come later.
_MOST = 100

#: Seconds that answers under way get when the server closes.
_LAST_WORDS = 1.0

_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """``headers`` are by their names in lower case; those that came twice are joined by a comma."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` come beside the length and the type."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = _TEXT
    headers: Sequence[tuple[str, str]] = ()

    @classmethod
    def text(cls, text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
        return cls(f"{text}\n".encode(), status)

    def encode(self, *, with_body: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        return head + self.body if with_body else head


Route: TypeAlias = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Answers requests for the paths in ``routes``. A route that raises is logged, and answered with 500."""

    def __init__(self, routes: Mapping[str, Route], *, patience: float = _PATIENCE) -> None:
        """``patience``: seconds that a client has for its request."""
        self._routes = routes
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """That on which it listens. ``RuntimeError`` while it does not."""
        if self._server is None:
            raise RuntimeError("the server does not listen")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 is any that is free. Raises ``OSError`` where that is impossible, as on a port in use."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_LONGEST_HEAD)

    async def close(self) -> None:
        """Listen no more, let answers under way end, and cut off what takes longer than a second. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_LAST_WORDS)
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        job = asyncio.current_task()
        assert job is not None
        self._connections.add(job)
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError):
            pass  # whoever asked has gone
        except asyncio.CancelledError:
            pass  # by close, which waits for this to end; asyncio would log it
        finally:
            self._connections.discard(job)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, response = await self._ask(reader)
        if response is None:
            return
        with_body = request is None or request.method != "HEAD"
        writer.write(response.encode(with_body=with_body))
        async with asyncio.timeout(self._patience):
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            # What was sent beyond the head would make the system cut off the answer if it were not read.
            with suppress(ConnectionError):
                await reader.read(_LONGEST_HEAD)

    async def _ask(self, reader: asyncio.StreamReader) -> tuple[Request | None, Response | None]:
        """What is asked, if that can be understood, and the answer, if somebody waits for one."""
        if len(self._connections) > _MOST:
            return None, Response.text("too many connections", HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            async with asyncio.timeout(self._patience):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse(head)
        except TimeoutError:
            return None, Response.text("no request came", HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return None, Response.text("the request is too long", status)
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None, None  # a probe that only connects
            return None, Response.text("the request is cut off", HTTPStatus.BAD_REQUEST)
        except ValueError as error:
            return None, Response.text(str(error), HTTPStatus.BAD_REQUEST)
        return request, await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            paths = ", ".join(self._routes)
            return Response.text(f"there are {paths}", HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            text, status = b"only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED
            return Response(text, status, headers=[("Allow", "GET, HEAD")])
        try:
            async with asyncio.timeout(_WORKING_TIME):
                return await route(request)
        except Exception:
            logger.exception("%s failed", request.path)
            return Response.text("it failed; see the log", HTTPStatus.INTERNAL_SERVER_ERROR)


def parse(head: bytes) -> Request:
    """The request of a head with its blank line. ``ValueError``, fit to be shown, for what is none."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[0].isalpha():
        raise ValueError("the first line must be that of an HTTP/1 request")
    try:
        path = urlsplit(words[1]).path
    except ValueError:
        raise ValueError("the path cannot be read") from None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("a header must be written name: value")
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known},{value.strip()}"
    return Request(words[0], path, headers)
