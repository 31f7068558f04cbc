"""What the client and the workers of the tour agree on: task types, payloads, and where Redis is.

Tasks are made here and nowhere else, so that no type or payload is ever spelt twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from asynqpy import Task

#: The embedded server keeps its data in this folder and is shared by all who name it.
REDIS_URL = os.environ.get("REDIS_URL", "embedded://~/.asynqpy/tour")

WELCOME = "email:welcome"
REMINDER = "email:reminder"


@dataclass
class WelcomeEmail:
    user_id: int


@dataclass
class ReminderEmail:
    user_id: int
    subject: str = "We miss you"


def welcome_email(user_id: int) -> Task:
    return Task(WELCOME, WelcomeEmail(user_id))


def reminder_email(user_id: int, subject: str = ReminderEmail.subject) -> Task:
    """Options given here hold wherever the task is enqueued, unless ``enqueue`` overrides them."""
    return Task(REMINDER, ReminderEmail(user_id, subject), queue="low", max_retry=5)
