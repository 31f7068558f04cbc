"""What a process and its supervisor tell each other, and what the supervisor tells of the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from asynqpy.server.census import Vitals

#: What the supervisor tells a process: to stop.
STOP = b"s"

#: Seconds that a process has to end beyond the shutdown timeout of its servers.
_GRACE = 10.0


class ProcessState(StrEnum):
    """What becomes of a process."""

    #: Not there: its next start is due in a moment.
    WAITING = "waiting"
    #: On its way to its first server.
    STARTING = "starting"
    RUNNING = "running"
    #: Takes no more tasks; what runs goes on.
    PAUSED = "paused"
    #: Was told to stop, or stops by itself.
    STOPPING = "stopping"
    #: Not there, and not coming back.
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """How a process of a supervisor does, as of about a second ago.

    ``number`` counts from 1; ``pid`` is ``None`` while there is none. ``seconds`` is how long it has been in its state
    or, while it is ``WAITING``, until its next start; ``restarts`` how often it was started again. Of its servers:
    ``running`` of at most ``concurrency`` tasks run now, ``processed`` attempts have ended since its start,
    ``per_second`` lately. ``cpu`` is the share of one core that it uses.
    """

    number: int
    pid: int | None = None
    state: ProcessState = ProcessState.WAITING
    seconds: float = 0.0
    restarts: int = 0
    running: int = 0
    concurrency: int = 0
    processed: int = 0
    per_second: float = 0.0
    cpu: float = 0.0


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the servers of a process do, taken together. A line of JSON, each second and when a server starts.

    ``state`` is ``STARTING`` before the first server has started. ``cpu_seconds`` is what the process has used so far,
    ``at`` the time of the report by a clock (s) that only differences make sense of. ``refused`` says why the target
    cannot be run, of a process that ends for it.
    """

    state: ProcessState = ProcessState.STARTING
    running: int = 0
    concurrency: int = 0
    ended: int = 0
    shutdown_timeout: float = 0.0
    cpu_seconds: float = 0.0
    at: float = 0.0
    refused: str = ""


#: What the states of servers make of their process: the most wakeful server counts.
_STATES = {
    "active": ProcessState.RUNNING,
    "stopped": ProcessState.PAUSED,
    "closed": ProcessState.STOPPING,
}


def report_on(servers: Sequence[Vitals], *, cpu_seconds: float, at: float) -> Report:
    """The report of a process with these servers."""
    states = {server.state for server in servers}
    return Report(
        state=next((_STATES[s] for s in _STATES if s in states), ProcessState.STARTING),
        running=sum(server.running for server in servers),
        concurrency=sum(server.concurrency for server in servers if server.state != "closed"),
        ended=sum(server.ended for server in servers),
        shutdown_timeout=max((server.shutdown_timeout for server in servers), default=0.0),
        cpu_seconds=cpu_seconds,
        at=at,
    )


def encode(report: Report) -> bytes:
    """A report as a line."""
    return msgspec.json.encode(report) + b"\n"


def decode(line: bytes) -> Report:
    """The report of a line. Raises ``ValueError`` for anything else."""
    return msgspec.json.decode(line, type=Report)


def stop_limit(report: Report) -> float:
    """Seconds after which a process that was told to stop is killed."""
    return report.shutdown_timeout + _GRACE


class Pace(msgspec.Struct, frozen=True):
    """How fast a process works: attempts ended per second, and CPU used as a share of one core."""

    ended: float = 0.0
    cpu: float = 0.0


def pace(before: Report, after: Report) -> Pace:
    """That between two reports. By their own times: they may be heard late, and then many at once."""
    seconds = after.at - before.at
    if seconds <= 0:
        return Pace()
    return Pace(
        ended=max(0.0, (after.ended - before.ended) / seconds),
        cpu=max(0.0, (after.cpu_seconds - before.cpu_seconds) / seconds),
    )
