from __future__ import annotations

import json
from collections import Counter
from typing import Any

from redis.asyncio import Redis

from tests.eventually import eventually
from tests.examples.program import Program
from tests.redis_state import scores

MODULE = "examples.error_handling"


async def test_each_failure_is_logged_and_treated_as_told(redis_url: str, redis: Redis) -> None:
    with Program(MODULE, REDIS_URL=redis_url) as program:
        await eventually(lambda: "message 2 sent" in program.output, within=60)
        await eventually(lambda: program.output.count("ApiDown") >= 3, within=60)
        archived = await eventually(lambda: _both(redis))
    records = [json.loads(line) for line in program.lines]
    failures = [record for record in records if "error" in record]
    assert Counter(record["error"] for record in failures) == {
        "RateLimited": 3,
        "SkipRetry": 1,
        "ApiDown": 3,
    }
    assert _attempts(failures, "RateLimited") == [1, 1, 1]
    assert _attempts(failures, "ApiDown") == [1, 2, 3]
    ids = {record["task_id"] for record in failures if record["error"] != "RateLimited"}
    assert ids == set(archived)


async def test_log_line_has_the_ids_and_the_traceback(redis_url: str) -> None:
    with Program(MODULE, REDIS_URL=redis_url) as program:
        await eventually(lambda: "SkipRetry" in program.output, within=60)
    (record,) = (r for r in map(json.loads, program.lines) if r.get("error") == "SkipRetry")
    assert record["level"] == "ERROR"
    assert record["message"] == "api:send failed: no such recipient: 'nobody'"
    assert (record["task_type"], record["queue"], record["max_retry"]) == ("api:send", "default", 2)
    assert "KeyError" in record["traceback"]


async def _both(redis: Redis) -> list[str]:
    archived = list(await scores(redis, "archived"))
    return archived if len(archived) == 2 else []


def _attempts(failures: list[dict[str, Any]], error: str) -> list[int]:
    return [record["attempt"] for record in failures if record["error"] == error]
