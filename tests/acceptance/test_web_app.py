"""A web application that enqueues tasks and processes them in its own lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, ServeMux, Server, ServerState, Task
from tests.acceptance.serving import eager_server
from tests.eventually import eventually
from tests.redis_state import counter, dump


class Shop:
    """The application, what it has sent, and what it is made of."""

    def __init__(self, redis_url: str) -> None:
        self.client = Client(redis_url)
        self.server: Server = eager_server(redis_url)
        self.sent: list[int] = []
        self.mux = ServeMux()
        self.mux.handle("email:verify", self.send)
        self.app = FastAPI(lifespan=self.lifespan)
        self.app.add_api_route("/signup/{user}", self.sign_up, methods=["POST"])

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self.client, self.server.running(self.mux):
            yield

    async def sign_up(self, user: int) -> dict[str, str]:
        info = await self.client.enqueue(Task("email:verify", {"user": user}, max_retry=10))
        return {"task": info.id}

    async def send(self, task: ActiveTask) -> None:
        self.sent.append(task.json()["user"])

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with (
            self.app.router.lifespan_context(self.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as browser,
        ):
            yield browser


async def test_server_lives_as_long_as_the_lifespan_of_the_app(
    redis_url: str, redis: Redis
) -> None:
    ours = asyncio.all_tasks()
    shop = Shop(redis_url)
    async with shop.open() as browser:
        assert str(shop.server.state) == "active"
        answers = await asyncio.gather(*(browser.post(f"/signup/{n}") for n in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        await eventually(lambda: sorted(shop.sent) == list(range(20)))
    assert str(shop.server.state) == "closed"
    assert asyncio.all_tasks() == ours
    assert await counter(redis, "processed") == 20
    assert not [name for name in await dump(redis) if "servers" in name or ":t:" in name]


async def test_tasks_that_run_when_the_app_goes_down_are_finished_first(
    redis_url: str, redis: Redis
) -> None:
    shop, has_begun, ended = Shop(redis_url), asyncio.Event(), []

    async def slow(task: ActiveTask) -> None:
        has_begun.set()
        await eventually(lambda: shop.server.state is ServerState.CLOSED)
        ended.append(task.id)

    shop.mux.handle("email:verify:slow", slow)
    async with shop.open():
        await shop.client.enqueue(Task("email:verify:slow"))
        await has_begun.wait()
    assert len(ended) == 1
    assert await counter(redis, "processed") == 1
