from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.eventually import eventually
from tests.examples.program import Program
from tests.redis_process import HOST, free_port, start_redis

MODULE = "examples.health"


async def status(port: int, path: str) -> tuple[int, str]:
    """What is answered; 0 where nobody listens yet."""
    async with httpx.AsyncClient(timeout=10.0) as client:
        try:
            response = await client.get(f"http://{HOST}:{port}{path}")
        except httpx.ConnectError:
            return 0, ""
    return response.status_code, response.text


@pytest.fixture
def port() -> int:
    return free_port()


async def test_a_worker_is_ready_while_redis_answers_and_alive_in_any_case(
    port: int, tmp_path: Path
) -> None:
    redis = start_redis(cwd=tmp_path)

    async def answers(path: str, expected: int) -> bool:
        return (await status(port, path))[0] == expected

    with Program(MODULE, REDIS_URL=redis.url, HEALTH_PORT=str(port)):
        await eventually(lambda: answers("/readyz", 200), within=60)
        redis.kill()
        await eventually(lambda: answers("/readyz", 503), within=60)
        assert await status(port, "/livez") == (200, "alive\n")
        assert (await status(port, "/"))[0] == 404
        with start_redis(port=redis.port, cwd=tmp_path):
            await eventually(lambda: answers("/readyz", 200), within=60)


async def test_the_reason_is_told(port: int) -> None:
    nobody = free_port()
    with Program(MODULE, REDIS_URL=f"redis://user:secret@{HOST}:{nobody}", HEALTH_PORT=str(port)):
        text = await eventually(lambda: reason(port), within=60)
    assert f"{HOST}:{nobody}" in text
    assert "secret" not in text


async def reason(port: int) -> str:
    """Why the worker is not ready, once it has tried to reach Redis."""
    code, text = await status(port, "/readyz")
    return text if code == 503 and "server is" not in text else ""
