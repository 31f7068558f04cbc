"""The tour's client: enqueues tasks to run now, later, at most once, and with other options.

python -m examples.tour.workers     # in one terminal
python -m examples.tour.client      # in another
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from asynqpy import AsynqError, Client, DuplicateTaskError, Task, TaskInfo, TaskState
from examples.tour.tasks import REDIS_URL, reminder_email, welcome_email


async def main() -> None:
    async with Client(REDIS_URL) as client:
        # To run now.
        show(await client.enqueue(welcome_email(user_id=42)))

        # To run later: after a delay, or at an instant.
        show(await client.enqueue(reminder_email(42), process_in=timedelta(hours=24)))
        new_year = datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
        show(await client.enqueue(reminder_email(42, "Happy new year"), process_at=new_year))

        # With options. A result, and how the task went, is kept for the retention.
        show(
            await client.enqueue(
                welcome_email(user_id=43),
                queue="critical",
                max_retry=3,
                timeout=timedelta(seconds=20),
                retention=timedelta(hours=1),
            )
        )

        # Not twice within the hour, however often the button is pressed.
        for _ in range(2):
            await enqueue_once(client, welcome_email(user_id=44))

        # Many in one round trip. One that is refused does not stop the others.
        for outcome in await client.enqueue_many(welcome_email(n) for n in range(100, 110)):
            if isinstance(outcome, AsynqError):
                print("refused:", outcome)
            else:
                show(outcome)


async def enqueue_once(client: Client, task: Task) -> None:
    try:
        show(await client.enqueue(task, unique=timedelta(hours=1)))
    except DuplicateTaskError:
        print(f"{'duplicate':<10}{task.type:<16}was enqueued already")


def show(info: TaskInfo) -> None:
    line = f"{info.state:<10}{info.type:<16}in {info.queue:<9}{info.payload.decode()}"
    if info.state is TaskState.SCHEDULED:
        line += f" for {info.next_process_at:%Y-%m-%d %H:%M} UTC"
    print(line)


if __name__ == "__main__":
    asyncio.run(main())
