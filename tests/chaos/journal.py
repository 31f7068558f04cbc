"""Append-only journals of what happened, one file a process, that survive its SIGKILL.

A line is ``<unix ns> <kind> <task id> <pid> <extra>``, written by one ``write`` to a file opened with ``O_APPEND``:
whole or absent, and in the file before the next thing happens. ``-`` stands for no task. The kinds:

===========  ==============================================================================================
acked        a producer was told that the task is stored
uncertain    an enqueue got no answer; extra is the error. It is repeated under the same id
refused      an enqueue was refused for good; extra is the error
ready        a worker takes tasks from now on
start        a handler starts; extra is ``<retried>``
end          it has ended; extra is ``<retried> <how>``: ``ok``, ``failed`` or ``cancelled:<cause>``
fault        something was done to the process pid, or to all of them (pid 0); extra is what
mended       that is over: the process is dead or goes on, Redis is back
note         anything else worth a line
===========  ==============================================================================================
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".journal"

#: Stands for every process.
EVERYBODY = 0


@dataclass(frozen=True, slots=True)
class Entry:
    at: int
    kind: str
    task_id: str
    pid: int
    extra: str

    @classmethod
    def parse(cls, line: str) -> Entry:
        at, kind, task_id, pid, *extra = line.rstrip("\n").split(" ", 4)
        return cls(int(at), kind, task_id, int(pid), extra[0] if extra else "")


class Journal:
    """The journal of this process."""

    def __init__(self, folder: Path, role: str) -> None:
        self.pid = os.getpid()
        self._file = os.open(
            folder / f"{role}-{self.pid}{SUFFIX}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
        )

    def write(
        self, kind: str, task_id: str = "-", extra: object = "", *, pid: int | None = None
    ) -> None:
        self.write_many(kind, [task_id], extra, pid=pid)

    def write_many(
        self, kind: str, task_ids: Sequence[str], extra: object = "", *, pid: int | None = None
    ) -> None:
        """The same of several tasks, in one ``write``."""
        head = f"{time.time_ns()} {kind}"
        tail = f"{self.pid if pid is None else pid} {one_line(extra)}\n"
        os.write(self._file, "".join(f"{head} {task_id} {tail}" for task_id in task_ids).encode())

    def close(self) -> None:
        os.close(self._file)


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


class JournalReader:
    """Reads all journals of a folder, each line once, however often it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def news(self) -> Iterator[Entry]:
        """Entries written since the last call, in order within each journal."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            yield from self._news_of(path)

    def _news_of(self, path: Path) -> Iterator[Entry]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offsets[path] = self._offsets.get(path, 0) + whole
        for line in data[:whole].decode().splitlines():
            yield Entry.parse(line)
