"""Background tasks of an open connection, which last as long as it does, whoever uses it."""

from __future__ import annotations


def is_line(task_name: str) -> bool:
    """Whether the task listens to a sentinel, or asks nodes of a cluster who they are or whether they are back."""
    return task_name.startswith(("asynqpy:sentinel", "asynqpy:node:", "asynqpy:slots"))
