"""Every Redis key that asynqpy touches, one function each.

Layout of hibiken/asynq (``docs/wire.md``). The braces of ``{queue}`` are a Redis Cluster hash tag: all keys of one
queue share a slot, so a script may touch any of them. Keys under ``asynqpy:`` are our own; Go never reads them.
"""

from __future__ import annotations

import re
from hashlib import md5

#: SET of queue names. Added by every producer; removed when a queue is removed.
QUEUES = "asynq:queues"

#: ZSET of full ``server`` keys -> expiry, unix s. Written by heartbeats; listings drop what expired.
SERVERS = "asynq:servers"

#: ZSET of full ``workers`` keys -> expiry, unix s. Written by heartbeats; listings drop what expired.
WORKERS = "asynq:workers"

#: ZSET of full keys of schedulers' entries -> expiry, unix s. Written by heartbeats of schedulers.
SCHEDULERS = "asynq:schedulers"

#: Pub/sub channel; a message is the bare id of a running task to cancel.
CANCEL_CHANNEL = "asynq:cancel"


def probe(name: str) -> str:
    """Never there: deleted to find out whether Redis takes writes again. Any ``name``, and so any slot, will do."""
    return f"asynqpy:probe:{name}"


def tracking(name: str) -> str:
    """Our own STRING, empty, there for a moment: proves that Redis tells of changes."""
    return f"asynqpy:tracking:{name}"


def server(owner: str) -> str:
    """STRING ServerInfo of the server ``<host>:<pid>:<server id>``.

    Written by each heartbeat with a TTL; deleted by a graceful stop. While it exists the server lives.
    """
    return f"asynq:servers:{{{owner}}}"


def workers(owner: str) -> str:
    """HASH task id -> WorkerInfo of the tasks that run now. Rewritten by each heartbeat with a TTL."""
    return f"asynq:workers:{{{owner}}}"


def scheduler_history(entry_id: str) -> str:
    """ZSET SchedulerEnqueueEvent -> time, unix s: what an entry of a scheduler has enqueued, the last 1000 times."""
    return f"asynq:scheduler_history:{entry_id}"


def task_prefix(queue: str) -> str:
    """Prefix of the task hashes: ``prefix + id`` is HASH msg, state, pending_since, … of one task.

    Written when a task is enqueued; deleted when it is done, deleted or trimmed.
    """
    return f"asynq:{{{queue}}}:t:"


def pending(queue: str) -> str:
    """LIST of ids, pushed at the head, popped at the tail. Requeue pushes at the tail: next to run."""
    return f"asynq:{{{queue}}}:pending"


def active(queue: str) -> str:
    """LIST of ids that a worker holds. Added by dequeue; removed by every settlement."""
    return f"asynq:{{{queue}}}:active"


def lease(queue: str) -> str:
    """ZSET id -> lease expiry, unix s, its fraction the holder's stamp. Same life as ``active``."""
    return f"asynq:{{{queue}}}:lease"


def scheduled(queue: str) -> str:
    """ZSET id -> due time, unix s. Added by enqueue; removed by forward."""
    return f"asynq:{{{queue}}}:scheduled"


def retry(queue: str) -> str:
    """ZSET id -> time of the next attempt, unix s. Added by retry; removed by forward."""
    return f"asynq:{{{queue}}}:retry"


def archived(queue: str) -> str:
    """ZSET id -> time of archiving, unix s. Added by archive, which also trims it."""
    return f"asynq:{{{queue}}}:archived"


def completed(queue: str) -> str:
    """ZSET id -> end of retention, unix s. Added by complete; removed by the janitor."""
    return f"asynq:{{{queue}}}:completed"


def paused(queue: str) -> str:
    """STRING time of pausing, unix s. Only its existence matters."""
    return f"asynq:{{{queue}}}:paused"


def groups(queue: str) -> str:
    """SET of the names of groups with waiting members."""
    return f"asynq:{{{queue}}}:groups"


def group_prefix(queue: str) -> str:
    """Prefix of the groups: ``prefix + name`` is ZSET id -> time added, unix s."""
    return f"asynq:{{{queue}}}:g:"


def aggregation_sets(queue: str) -> str:
    """ZSET of full keys of aggregation sets -> deadline of their aggregation, unix s. Written by Go's aggregator."""
    return f"asynq:{{{queue}}}:aggregation_sets"


def processed(queue: str) -> str:
    """STRING running total of attempts that ended, failures included."""
    return f"asynq:{{{queue}}}:processed"


def failed(queue: str) -> str:
    """STRING running total of attempts that failed."""
    return f"asynq:{{{queue}}}:failed"


def processed_on(queue: str, day: str) -> str:
    """STRING attempts that ended on a UTC day (``YYYY-MM-DD``). Expires after 90 days."""
    return f"asynq:{{{queue}}}:processed:{day}"


def failed_on(queue: str, day: str) -> str:
    """STRING attempts that failed on a UTC day (``YYYY-MM-DD``). Expires after 90 days."""
    return f"asynq:{{{queue}}}:failed:{day}"


def unique_prefix(queue: str) -> str:
    """Prefix of every unique lock of a queue."""
    return f"asynq:{{{queue}}}:unique:"


def unique(queue: str, task_type: str, payload: bytes | None) -> str:
    """STRING id of the task that holds the lock; lives as long as its TTL, or until the task is done.

    No payload gives an empty digest, an empty payload the md5 of nothing: Go tells nil and empty apart in the same way.
    """
    digest = "" if payload is None else md5(payload, usedforsecurity=False).hexdigest()
    return f"{unique_prefix(queue)}{task_type}:{digest}"


def quarantine(queue: str) -> str:
    """Our own ZSET id -> time, unix s, of the records that could not be read and were set aside."""
    return f"asynqpy:{{{queue}}}:quarantine"


def quarantine_prefix(queue: str) -> str:
    """Our own prefix: ``prefix + id`` is the task hash that was set aside, as it was found.

    ``prefix + "key:" + suffix`` is a whole key of the queue that held the wrong type.
    """
    return f"asynqpy:{{{queue}}}:quarantine:"


def reconciler(queue: str) -> str:
    """Our own STRING: the server that last searched the whole queue for damage; its TTL is the pause until the next."""
    return f"asynqpy:{{{queue}}}:reconciler"


def pattern(kind: str, queue: str | None = None) -> bytes:
    """Glob pattern of the keys of a queue, or of all queues, that go on with ``kind``, such as ``t:`` or ``""``."""
    name = b"*" if queue is None else re.sub(rb"([*?\[\]\\^])", rb"\\\1", queue.encode())
    return b"asynq:{%s}:%s*" % (name, kind.encode())


def parse(key: bytes) -> tuple[str, str, bytes] | None:
    """Queue, kind (``t``, ``unique``, ``g``, or a whole name such as ``pending``) and the rest of a queue's key.

    ``None`` for a key that belongs to no queue. What is no UTF-8 in a queue's name makes it none of ours.
    """
    name, separator, rest = key.removeprefix(b"asynq:{").partition(b"}:")
    if not key.startswith(b"asynq:{") or not separator or not name:
        return None
    try:
        queue, kind = name.decode(), rest.partition(b":")[0].decode()
    except UnicodeDecodeError:
        return None
    return queue, kind, rest.partition(b":")[2]
