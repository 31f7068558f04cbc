"""Which queues may have tasks to give, as far as Redis tells of changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asynqpy.broker import keys
from asynqpy.broker.key_watch import Watch


class Arrivals:
    """Keeps the set of ``promising`` queues: those that are not known to be empty or paused.

    Without a live watch, or before ``arm``, these are all.
    """

    def __init__(self, watch: Watch, queues: Sequence[str], arrived: Callable[[], None]) -> None:
        """``arrived()`` is called when there may be tasks in a queue that gave none when it was last asked."""
        self.promising = set(queues)
        self._watch = watch
        self._arrived = arrived
        self._keys_of = {queue: (keys.pending(queue), keys.paused(queue)) for queue in queues}
        self._queue_of = {key: queue for queue, own in self._keys_of.items() for key in own}
        watch.on_news(self._queue_of, self._hear)

    def arm(self) -> bool:
        """Have Redis tell of changes in the promising queues, and answer whether it will.

        To be called after they were asked and had no more: what came since is told as well.
        """
        self._watch.ask([key for queue in self.promising for key in self._keys_of[queue]])
        return self._watch.is_live

    def _hear(self, key: str, exists: bool | None) -> None:
        queue = self._queue_of[key]
        has_tasks, is_paused = map(self._watch.exists, self._keys_of[queue])
        if has_tasks is False or is_paused:
            self.promising.discard(queue)
            return
        self.promising.add(queue)
        # An answer that leaves the other question open is no news yet.
        if exists is None or (has_tasks and is_paused is False):
            self._arrived()
