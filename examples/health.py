"""A worker that tells Kubernetes, or whoever watches it, how it is.

    python -m examples.health
    curl -i http://127.0.0.1:8080/livez
    curl -i http://127.0.0.1:8080/readyz

- ``/livez`` answers 200 as long as the event loop runs. It does not ask Redis: restarting every worker because Redis is
  away would help nobody, and they wait for it anyway.
- ``/readyz`` answers 200 while the server takes tasks and Redis answers, else 503 and the reason. A deployment that
  waits for it does not replace old workers by new ones that cannot reach their Redis.

It knows just enough of HTTP for that, and needs no web framework. ``HEALTH_PORT`` is another port than 8080, and
``HEALTH_HOST`` another address than the loopback one: in a container, ``0.0.0.0``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from http import HTTPStatus

from asynqpy import ActiveTask, BrokerError, ServeMux, Server, ServerState

REDIS_URL = os.environ.get("REDIS_URL", "embedded://~/.asynqpy/health")

HOST = os.environ.get("HEALTH_HOST", "127.0.0.1")
PORT = int(os.environ.get("HEALTH_PORT", "8080"))

#: Seconds that Redis has for an answer, and that a client has to say what it wants.
PATIENCE = 2.0

mux = ServeMux()


@mux.handler("email:welcome")
async def send_welcome(task: ActiveTask) -> None:
    """What the worker is there for."""


Answer = tuple[HTTPStatus, str]


class Health:
    """The two answers, by the paths that ask for them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def answer(self, path: str) -> Answer:
        if path == "/livez":
            return HTTPStatus.OK, "alive"
        if path == "/readyz":
            return await self.readiness()
        return HTTPStatus.NOT_FOUND, "ask for /livez or /readyz"

    async def readiness(self) -> Answer:
        if self._server.state is not ServerState.ACTIVE:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"the server is {self._server.state}"
        try:
            await asyncio.wait_for(self._server.ping(), PATIENCE)
        except BrokerError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, str(error)
        except TimeoutError:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"Redis gave no answer within {PATIENCE:g} s"
        return HTTPStatus.OK, "ready"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a connection."""
        try:
            async with asyncio.timeout(2 * PATIENCE):
                words = (await reader.readline()).split()
                status, text = await self.answer(words[1].decode() if len(words) > 1 else "")
                writer.write(response(status, text))
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked has gone, or says nothing that makes sense
        finally:
            writer.close()


def response(status: HTTPStatus, text: str) -> bytes:
    body = f"{text}\n".encode()
    head = f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: text/plain; charset=utf-8\r\n\r\n".encode() + body


async def main() -> None:
    server = Server(REDIS_URL, concurrency=20, shutdown_timeout=30)
    async with await asyncio.start_server(Health(server).serve, HOST, PORT):
        await server.run(mux)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(main())
