from __future__ import annotations

import asyncio

import pytest

from asynqpy.metrics.http import HttpServer, Request, Response


async def answer(asked: bytes) -> bytes:
    async def here(request: Request) -> Response:
        return Response.text("hello")

    http = HttpServer({"/here": here})
    await http.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(asked)
        writer.write_eof()
        found = await reader.read()
        writer.close()
        await writer.wait_closed()
        return found
    finally:
        await http.close()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET /here?x HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD /here HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /here HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /there HTTP/1.1\r\n\r\n", b"404"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /here HTTP/1.1\r\nX: " + 20_000 * b"x" + b"\r\n\r\n", b"431"),
    ],
)
async def test_each_request_gets_its_status(asked: bytes, status: bytes) -> None:
    found = await answer(asked)
    assert found.split(b" ")[1] == status
    assert found.endswith(b"hello\n") == asked.startswith(b"GET /here?")
