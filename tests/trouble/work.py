"""A handler that keeps a list, and a server on it."""

from __future__ import annotations

import asyncio

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError, NotReplicatedError, TaskIdConflictError
from asynqpy.task import ActiveTask, Task

WELCOME = Task("email:welcome")

#: Seconds after which everybody has heard of a new master.
SWITCHED = 2


class Work:
    """Handles everything, and remembers what."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def __call__(self, task: ActiveTask) -> None:
        self.done.append(task.id)


async def enqueue(url: str, *task_ids: str) -> None:
    async with Client(url) as client:
        for task_id in task_ids:
            await insist(client, task_id)


async def insist(client: Client, task_id: str, task: Task = WELCOME) -> None:
    """Enqueue a task under that id, again after a connection to a Redis of yesterday has broken.

    Also until the replicas have it whom the client asks for.
    """
    is_stored = False
    while True:
        try:
            await client.enqueue(task, task_id=task_id)
        except BrokerUnavailableError:
            continue
        except NotReplicatedError:
            # Perhaps by a master of yesterday. When all have heard of the new one, it is there or it is gone.
            is_stored = True
            await asyncio.sleep(SWITCHED)
            continue
        except TaskIdConflictError:
            if not is_stored:
                raise
        return


async def is_refused(client: Client) -> bool:
    """Whether Redis is found to be away."""
    try:
        await client.enqueue(WELCOME, task_id="refused")
    except BrokerUnavailableError:
        return True
    return False
