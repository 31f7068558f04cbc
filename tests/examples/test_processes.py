from __future__ import annotations

import os
import re
import signal

from redis.asyncio import Redis

from tests.eventually import eventually
from tests.examples.program import Program
from tests.redis_state import invariants

MODULE = "examples.processes"
COUNTED = re.compile(r"^process [12]: (\d+) primes below (\d+)$", re.MULTILINE)
WORKS = re.compile(r"process 1 \(pid (\d+)\) works")


async def test_processes_count_primes(redis_url: str, redis: Redis) -> None:
    with Program(MODULE, REDIS_URL=redis_url) as program:
        await eventually(lambda: len(COUNTED.findall(program.output)) == 8, within=60)
    counted = {int(limit): int(primes) for primes, limit in COUNTED.findall(program.output)}
    assert (counted[200_000], counted[1_000_000]) == (17_984, 78_498)
    assert not await invariants(redis)


async def test_killed_process_is_replaced(redis_url: str) -> None:
    with Program(MODULE, REDIS_URL=redis_url) as program:
        (pid,) = await eventually(lambda: WORKS.findall(program.output), within=60)
        os.kill(int(pid), signal.SIGKILL)
        await eventually(lambda: len(WORKS.findall(program.output)) == 2, within=60)
    assert f"process 1 (pid {pid}) ended with SIGKILL; it is started again now" in program.output
