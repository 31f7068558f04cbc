from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from httpx import ASGITransport, AsyncClient
from redis.asyncio import Redis

from examples.fastapi_signup import app as application
from tests.eventually import eventually
from tests.examples.program import Program
from tests.redis_process import free_port
from tests.redis_state import ask, dump, key, scores, stored_message, task_hash

PROCESSOR = "examples.fastapi_signup.processor"
ADA = {"name": "Ada", "email": "ada@example.com"}


@pytest.fixture
def used_redis(redis_url: str) -> str:
    return redis_url


@pytest.fixture
async def web(used_redis: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """A browser of the running application."""
    monkeypatch.setattr(application, "REDIS_URL", used_redis)
    monkeypatch.setattr(application, "users", {})
    app = application.app
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://signup") as client,
    ):
        yield client


async def test_sign_up_distributes_a_delayed_critical_task(web: AsyncClient, redis: Redis) -> None:
    answer = await web.post("/signup", json=ADA)
    assert answer.status_code == 201
    ((task_id, due),) = (await scores(redis, "scheduled", "critical")).items()
    assert 8 <= due - int((await ask(redis, "TIME"))[0]) <= 11
    message = await stored_message(redis, task_id, "critical")
    assert (message.type, message.queue, message.retry) == ("email:verify", "critical", 10)
    assert answer.json()["id"].encode() in message.payload


async def test_processor_sends_the_email_when_it_is_due(
    web: AsyncClient, redis_url: str, redis: Redis
) -> None:
    await web.post("/signup", json=ADA)
    (task_id,) = await scores(redis, "scheduled", "critical")
    await ask(redis, "ZADD", key("critical", "scheduled"), "XX", 1, task_id)
    with Program(PROCESSOR, REDIS_URL=redis_url) as processor:
        await eventually(lambda: "asked Ada at ada@example.com" in processor.output, within=60)
    assert not await task_hash(redis, task_id, "critical")


async def test_second_sign_up_of_an_address_is_refused(web: AsyncClient, redis: Redis) -> None:
    await web.post("/signup", json=ADA)
    assert (await web.post("/signup", json=ADA)).status_code == 409
    assert len(await scores(redis, "scheduled", "critical")) == 1


async def test_form_that_does_not_fit_distributes_nothing(web: AsyncClient, redis: Redis) -> None:
    assert (await web.post("/signup", json={"name": "Ada", "email": "ada"})).status_code == 422
    assert not await dump(redis)


@pytest.mark.parametrize("used_redis", [f"redis://127.0.0.1:{free_port()}"], ids=["nobody"])
async def test_sign_up_without_redis_is_taken_back(web: AsyncClient) -> None:
    assert (await web.post("/signup", json=ADA)).status_code == 503
    assert application.users == {}
