"""What becomes of failures: a policy for retries, and a structured log of them. Ends with Ctrl-C.

    pip install -e ".[embedded]"
    python -m examples.error_handling

Four messages go to an API that limits rates and has bad days:

- ``api:send`` 1 is sent.
- 2 hits a rate limit: tried again when the API says so, which is not held against the task.
- 3 goes to somebody unknown: ``SkipRetry`` archives it at once, for trying again cannot help.
- 4 finds the API down: tried again after a delay of our own, and archived when its retries are used up.

Every failed attempt is a line of JSON on stderr, for whatever collects your logs. The last, after some seconds, says
that 4 is archived; nothing more happens then, and the server waits for tasks until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass

from asynqpy import ActiveTask, Client, ServeMux, Server, SkipRetry, Task, default_retry_delay

#: An embedded server without a folder: it ends with this process, and so do its tasks.
REDIS_URL = os.environ.get("REDIS_URL", "embedded://")

logger = logging.getLogger("messenger")


# ── the log ──────────────────────────────────────────────────────────────────────────────────


class JsonFormatter(logging.Formatter):
    """One JSON object a line. Whatever was logged with ``extra`` becomes a field of its own."""

    _usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in self._usual}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def log_failure(task: ActiveTask, error: BaseException) -> None:
    """The error handler: told of every failed attempt. May be ``async def`` too."""
    logger.error(
        "%s failed: %s",
        task.type,
        error,
        exc_info=error,
        extra={
            "task_id": task.id,
            "task_type": task.type,
            "queue": task.queue,
            "attempt": task.retried + 1,
            "max_retry": task.max_retry,
            "error": type(error).__name__,
        },
    )
    if isinstance(error, SkipRetry) or (is_failure(error) and task.retried >= task.max_retry):
        logger.warning("%s is archived: not tried again", task.type, extra={"task_id": task.id})


def set_up_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


# ── the policy ───────────────────────────────────────────────────────────────────────────────


class RateLimited(Exception):
    def __init__(self, retry_after: float) -> None:
        super().__init__(f"rate limited, try again in {retry_after:g} s")
        self.retry_after = retry_after


class ApiDown(Exception):
    pass


def retry_delay(retried: int, error: BaseException, task: ActiveTask) -> float:
    """Seconds until the next attempt of a task that failed ``retried`` times before."""
    match error:
        case RateLimited():
            return error.retry_after
        case ApiDown():
            return min(2.0**retried, 60.0)
        case _:
            return default_retry_delay(retried, error, task)


def is_failure(error: BaseException) -> bool:
    """A rate limit is nobody's fault: it uses up no retry and does not count as a failure."""
    return not isinstance(error, RateLimited)


# ── the work ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Message:
    number: int


class Api:
    """Stands for the API of somebody else."""

    def __init__(self) -> None:
        self._limited = 3

    async def send(self, message: Message) -> None:
        if message.number == 2 and self._limited:
            self._limited -= 1
            raise RateLimited(retry_after=1.0)
        if message.number == 3:
            raise KeyError("nobody")
        if message.number == 4:
            raise ApiDown("503 Service Unavailable")


api = Api()
mux = ServeMux()


@mux.handler("api:send")
async def send(task: ActiveTask) -> None:
    message = task.json(Message)
    try:
        await api.send(message)
    except KeyError as error:
        raise SkipRetry(f"no such recipient: {error}") from error
    logger.info("message %d sent", message.number, extra={"task_id": task.id})


async def main() -> None:
    async with Client(REDIS_URL) as client:
        for number in (1, 2, 3, 4):
            await client.enqueue(Task("api:send", Message(number), max_retry=2))
    server = Server(
        REDIS_URL,
        error_handler=log_failure,
        retry_delay=retry_delay,
        is_failure=is_failure,
    )
    await server.run(mux)


if __name__ == "__main__":
    set_up_logging()
    # The library logs failures too; here the error handler does, with more fields.
    logging.getLogger("asynqpy").setLevel(logging.ERROR)
    asyncio.run(main())
