"""Many producers want the same unique locks and the same ids, while workers succeed, fail, archive and are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

from redis.asyncio import Redis

from tests.chaos.contenders import IDS, LOCKS, Contest
from tests.chaos.engines import PATIENCE
from tests.chaos.ledger import Story
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.chaos.verifier import drain
from tests.redis_state import ask, key

WORKERS = 2
PRODUCERS = 64
NUMBER_OF_LOCKS = 40

_PAUSE = 0.1


async def run(settings: Settings) -> Result:
    queues = {LOCKS: 1, IDS: 1}
    options = {"delayed_task_check_interval": 0.5}
    async with staged(
        settings, queues=queues, concurrency=40, retry_delay=1, options=options
    ) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        contest = Contest(stage.journal, stage.random, NUMBER_OF_LOCKS)
        most = Most()
        counting = asyncio.create_task(most.watch(stage.redis.url))
        stage.phase, stage.started_load = "under load", stage.elapsed
        async with asyncio.TaskGroup() as group:
            group.create_task(contest.produce(stage.redis.url, PRODUCERS, settings.seconds))
            async for _ in stage.at_intervals(settings.faults):
                await stage.fleet.kill(await stage.some_worker())
                stage.fleet.start()
        await drain(stage.redis.url, list(queues), PATIENCE[settings.engine])
        leaked = await _leaked_locks(stage.redis.url)
        counting.cancel()
        books = await stage.close_books(within=PATIENCE[settings.engine])
    together = list(_held_together(stage, contest))
    twice = [task_id for task_id, wins in contest.winners.items() if wins > 1]
    books.result.figures |= {
        "duplicates_refused": contest.duplicates,
        "conflicts_answered": contest.conflicts,
        "holders": sum(map(len, contest.holders.values())),
        "most_holders_of_a_lock": most.holders,
        "leaked_locks": len(leaked),
    }
    books.demand(most.holders <= 1, f"{most.holders} tasks alive with the same lock")
    books.demand_none(together, "tasks that got a lock before its last holder had ended")
    books.demand_none(twice, "task ids given to two producers")
    books.demand_none(leaked, "locks leaked")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    return books.result


class Most:
    """The most tasks that were ever seen alive with the same lock."""

    holders = 0

    async def watch(self, url: str) -> None:
        async with Redis.from_url(url, protocol=2) as redis:
            while True:
                seen = await ask(redis, "EVAL", _MOST_HOLDERS, 0, key(LOCKS, "t:*"))
                self.holders = max(self.holders, seen)
                await asyncio.sleep(_PAUSE)


#: An archived task is alive no more.
_MOST_HOLDERS = """
local holders, most = {}, 0
for _, name in ipairs(redis.call('KEYS', ARGV[1])) do
  local record = redis.call('HMGET', name, 'unique_key', 'state')
  if record[1] and record[2] ~= 'archived' then
    holders[record[1]] = (holders[record[1]] or 0) + 1
    most = math.max(most, holders[record[1]])
  end
end
return most
"""


async def _leaked_locks(url: str) -> list[str]:
    """Locks that are still there when everything is over; but an archived task keeps its own."""
    async with Redis.from_url(url, protocol=2, decode_responses=True) as redis:
        archived = set(await ask(redis, "ZRANGE", key(LOCKS, "archived"), 0, -1))
        locks = await ask(redis, "KEYS", key(LOCKS, "unique:*"))
        return [lock for lock in locks if await ask(redis, "GET", lock) not in archived]


def _held_together(stage: Stage, contest: Contest) -> Iterator[str]:
    """Tasks whose life began before that of the previous holder had ended, by the journals."""
    for task_ids in contest.holders.values():
        lives = sorted((*_life(stage.ledger.tasks[task_id]), task_id) for task_id in task_ids)
        for (_, ended, _), (began, _, task_id) in pairwise(lives):
            if began < ended:
                yield task_id


def _life(story: Story) -> tuple[int, int]:
    """From its first sign to its last, unix ns."""
    signs = [story.acked, *(at for run in story.runs for at in (run.started, run.ended) if at)]
    return min(signs), max(signs[1:], default=story.acked)


SCENARIOS = (
    Scenario(
        name="unique",
        promises="64 producers on 40 locks: one holder at a time, ids given once, no lock leaked, whatever crashes",
        run=run,
        ci=Size(seconds=10, tasks=0, faults=2),
        long=Size(seconds=240, tasks=0, faults=60),
        engines=("asynqpy", "go"),
    ),
)
