from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asynqpy import Client
from tests.broker.conftest import other_broker
from tests.interop.go_build import build
from tests.interop.go_program import GoProgram
from tests.requires import need_go
from tests.server.conftest import broker, loop_that_keeps_quiet

#: Fixtures of other folders that serve here too.
__all__ = ["broker", "loop_that_keeps_quiet", "other_broker"]

#: The asynq whose faults docs/reliability.md lists; older ones have some of them.
GO_VERSION = "0.26"


@pytest.fixture
def go(redis_url: str) -> GoProgram:
    """The Go program; the test is skipped where there is no Go."""
    need_go()
    return GoProgram(GO_VERSION, build(GO_VERSION), redis_url)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client
