"""What a process and its children take of the machine: memory and CPU time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_PROC = Path("/proc")

#: Seconds between two looks at the memory.
_INTERVAL = 0.05


def memory_mb(pid: int) -> float:
    """Memory of the process and its children, MB; pages that they share count once where the system tells (Linux).

    0.0 for a process that has ended.
    """
    return sum(_memory_of(one) for one in family(pid))


def _memory_of(pid: int) -> float:
    if sys.platform != "linux":
        found = _ps(["-o", "rss=", "-p", str(pid)])
        return int(found or 0) * 1024 / 1e6
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU time that the process and its living children have used, s. On Linux only; elsewhere 0.0."""
    return sum(_cpu_of(one) for one in family(pid)) if sys.platform == "linux" else 0.0


def _cpu_of(pid: int) -> float:
    try:
        # In ns; `stat` counts in hundredths, too coarse for a process that sleeps.
        parts = (_PROC / str(pid) / "task").glob("*/schedstat")
        return sum(int(part.read_text().split()[0]) for part in parts) / 1e9
    except OSError:
        return 0.0


def family(pid: int) -> Iterator[int]:
    """The process, its children, and theirs."""
    yield pid
    for child in _children(pid):
        yield from family(child)


def _children(pid: int) -> list[int]:
    if sys.platform != "linux":
        return [int(one) for one in _ps(["-o", "pid=,ppid=", "-ax"], parent=pid).split()]
    found: list[int] = []
    for file in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found += map(int, file.read_text().split())
        except OSError:
            continue  # the thread has ended
    return found


def _ps(arguments: list[str], parent: int = 0) -> str:
    """What ``ps`` says; with ``parent`` only the first word of lines whose second is that."""
    said = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout
    if not parent:
        return said.strip()
    lines = (line.split() for line in said.splitlines())
    return " ".join(words[0] for words in lines if words[1:2] == [str(parent)])


class Peak:
    """The most memory of a process and its children while the context lasts, ``mb``."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self.mb = max(self.mb, memory_mb(self._pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
