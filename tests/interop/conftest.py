from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asynqpy import Client
from tests.interop.go_build import VERSIONS, build
from tests.interop.go_program import GoProgram
from tests.requires import need_go


@pytest.fixture(params=list(VERSIONS), ids=[f"go-{version}" for version in VERSIONS])
def go(request: pytest.FixtureRequest, redis_url: str) -> GoProgram:
    """The Go program, once for each version of asynq; the test is skipped where there is no Go."""
    need_go()
    version: str = request.param
    return GoProgram(version, build(version), redis_url)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client
