"""What the web application and the processor agree on."""

from __future__ import annotations

import os
from datetime import timedelta

from pydantic import BaseModel

from asynqpy import Task

#: The embedded server keeps its data in this folder and is shared by all who name it.
REDIS_URL = os.environ.get("REDIS_URL", "embedded://~/.asynqpy/fastapi_signup")

CRITICAL = "critical"
DEFAULT = "default"

SEND_VERIFY_EMAIL = "email:verify"


class VerifyEmail(BaseModel):
    user_id: str
    name: str
    address: str


def send_verify_email(email: VerifyEmail) -> Task:
    """Delayed, so that whatever stores the user is done before anybody acts on it."""
    return Task(
        SEND_VERIFY_EMAIL,
        email,
        queue=CRITICAL,
        max_retry=10,
        process_in=timedelta(seconds=10),
    )
