from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asynqpy import Inspector


@pytest.fixture
async def inspector(redis_url: str) -> AsyncIterator[Inspector]:
    async with Inspector(redis_url) as inspector:
        yield inspector
