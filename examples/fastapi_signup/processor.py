"""Sends what the web application leaves to it, critical tasks before the others, until Ctrl-C.

uvicorn examples.fastapi_signup.app:app
python -m examples.fastapi_signup.processor     # in another terminal
"""

from __future__ import annotations

import asyncio
import logging

from asynqpy import ActiveTask, ServeMux, Server
from examples.fastapi_signup.tasks import (
    CRITICAL,
    DEFAULT,
    REDIS_URL,
    SEND_VERIFY_EMAIL,
    VerifyEmail,
)

logger = logging.getLogger("processor")

mux = ServeMux()


@mux.handler(SEND_VERIFY_EMAIL)
async def send_verify_email(task: ActiveTask) -> None:
    email = task.json(VerifyEmail)  # a payload that does not fit is archived, not retried
    await asyncio.sleep(0.1)  # where a real one talks to the mail server
    logger.info("asked %s at %s to verify the address", email.name, email.address)


async def main() -> None:
    server = Server(REDIS_URL, queues={CRITICAL: 6, DEFAULT: 3})
    await server.run(mux)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(main())
