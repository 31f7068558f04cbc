"""What Redis does when its memory is full, by ``INFO memory``: ``CONFIG`` is forbidden in many places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CURE = (
    "Set maxmemory-policy to noeviction: a full Redis then refuses new tasks with an error, "
    "and workers drain it"
)


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """``maxmemory-policy``, and ``maxmemory`` in bytes, 0 for no limit."""

    policy: str
    maxmemory: int

    @classmethod
    def of(cls, info: object) -> MemoryPolicy | None:
        """Read the answer of ``INFO memory``, as redis-py or Redis gives it; ``None`` where it does not tell."""
        fields = info if isinstance(info, Mapping) else _fields(info)
        policy = fields.get("maxmemory_policy")
        if not policy:
            return None
        return cls(str(policy), int(fields.get("maxmemory", 0)))

    def danger(self) -> str:
        """What may happen, and the cure; empty when nothing is evicted."""
        if self.policy == "noeviction":
            return ""
        if self.policy.startswith("volatile-"):
            victims = "unique locks, the presence of servers and daily counters"
        else:
            victims = "tasks, leases and unique locks"
        if self.maxmemory:
            when = f"Once maxmemory ({self.maxmemory:,} bytes) is reached"
        else:
            when = "maxmemory is not set, so nothing is evicted yet; once it is set and reached"
        return f"maxmemory-policy is {self.policy}. {when}, {victims} vanish silently. {_CURE}"


def _fields(info: object) -> dict[str, Any]:
    if not isinstance(info, bytes):
        return {}
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, separator, value in lines if separator}
