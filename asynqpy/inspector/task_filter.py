"""Which tasks of a state are meant: by type, payload, age or error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from asynqpy.options import Duration, check_positive, seconds
from asynqpy.task import TaskInfo

#: Stands for a field that is not there.
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """What a task must be like; everything that is given has to fit.

    ``type`` is a pattern with ``*``, ``?`` and ``[…]``, ``error`` a part of the last error's text, in whatever case.
    ``payload`` maps fields of a JSON payload to their values, with dots into objects and list indexes:
    ``{"user.id": 42}``. ``older_than`` and ``newer_than`` are about how long the task has been in its state: since it
    became pending, failed last, was archived, was completed, or joined its group; active and scheduled tasks have no
    such age, and are not meant. Raises ``ValueError`` or ``TypeError`` for what makes no sense.

        TaskFilter(type="email:*", error="timeout", older_than=timedelta(days=1))
    """

    type: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    older_than: Duration | None = None
    newer_than: Duration | None = None

    def __post_init__(self) -> None:
        for name in ("older_than", "newer_than"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for name in ("type", "error"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{name} must be a str, not {type(getattr(self, name)).__name__}")
        if not isinstance(self.payload, dict):
            raise TypeError("payload must be a dict from fields to values, as {'user.id': 42}")

    def fits(self, task: TaskInfo, age: float | None) -> bool:
        """Whether the task is meant; ``age`` is how long it has been in its state, s."""
        return (
            (self.type is None or fnmatchcase(task.type, self.type))
            and (self.error is None or self.error.lower() in task.last_error.lower())
            and self._fits_age(age)
            and (not self.payload or self._fits_payload(task.payload))
        )

    def _fits_age(self, age: float | None) -> bool:
        if self.older_than is None and self.newer_than is None:
            return True
        if age is None:
            return False
        older = 0.0 if self.older_than is None else seconds("older_than", self.older_than)
        newer = math.inf if self.newer_than is None else seconds("newer_than", self.newer_than)
        return older <= age < newer

    def _fits_payload(self, payload: bytes) -> bool:
        try:
            data = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return all(_at(data, path) == wanted for path, wanted in self.payload.items())


def _at(data: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(data, dict):
            data = data.get(name, _ABSENT)
        elif isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return _ABSENT
    return data
