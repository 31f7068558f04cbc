"""Who listens for cancellations: one that nobody hears is lost, so tests wait for a listener."""

from __future__ import annotations

from tests.eventually import eventually
from tests.topologies.common import CommonRedis


async def a_listener(redis_server: CommonRedis) -> None:
    """Wait until a server has subscribed to cancellations."""
    await eventually(lambda: redis_server.ask("PUBSUB NUMSUB", "asynq:cancel")[0][1] > 0, within=10)
