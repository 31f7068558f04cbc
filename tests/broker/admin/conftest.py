from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asynqpy.broker.admin.admin import Admin
from tests.fake_clock import FakeClock


@pytest.fixture
async def admin(redis_url: str, clock: FakeClock) -> AsyncIterator[Admin]:
    admin = Admin(redis_url, clock)
    yield admin
    await admin.close()
