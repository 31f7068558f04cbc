"""The tour's workers: take the client's tasks from three queues and process them, until Ctrl-C.

    python -m examples.tour.workers     # in one terminal
    python -m examples.tour.client      # in another

Start as many of these as you like: they share the work. Ctrl-C lets running tasks finish first.
"""

from __future__ import annotations

import asyncio
import logging

from asynqpy import ActiveTask, AsyncHandler, ServeMux, Server
from examples.tour.tasks import REDIS_URL, REMINDER, WELCOME, ReminderEmail, WelcomeEmail

logger = logging.getLogger("tour")

mux = ServeMux()


@mux.handler(WELCOME)
async def send_welcome(task: ActiveTask) -> None:
    """Return to succeed, raise to be tried again later."""
    email = task.json(WelcomeEmail)
    await asyncio.sleep(0.1)  # where a real one talks to the mail server
    logger.info("welcome sent to user %d", email.user_id)
    await task.write_result({"sent": True})


@mux.handler(REMINDER)
def send_reminder(task: ActiveTask) -> None:
    """A plain function runs in a thread, so it may call libraries that block."""
    email = task.json(ReminderEmail)
    logger.info("%r sent to user %d", email.subject, email.user_id)


async def log_duration(task: ActiveTask, call_next: AsyncHandler) -> None:
    """A middleware: runs around every handler."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    await call_next(task)
    logger.info("%s took %.0f ms", task.type, 1000 * (loop.time() - started))


async def main() -> None:
    mux.use(log_duration)
    # Of ten tasks, six are critical ones and one is low, as long as all three queues have some.
    server = Server(REDIS_URL, concurrency=10, queues={"critical": 6, "default": 3, "low": 1})
    await server.run(mux)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(main())
