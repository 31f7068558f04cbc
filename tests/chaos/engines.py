"""The workers that the harness can put under load: how each is started, given its configuration file."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.interop.go_build import build


def asynqpy_worker() -> list[str]:
    return [sys.executable, "-m", "tests.chaos.worker"]


def go_worker() -> list[str]:
    """Built on first use; needs Go (``tests.requires.need_go``)."""
    return [str(build("0.26")), "chaos"]


#: Engine -> the command to which the path of the configuration is added.
ENGINES: dict[str, Callable[[], list[str]]] = {"asynqpy": asynqpy_worker, "go": go_worker}

#: Seconds in which an engine has brought everything back by itself. Go's recoverer looks each minute for leases of 30 s
#: that ended 30 s ago, and then puts the task into retry.
PATIENCE = {"asynqpy": 90.0, "go": 240.0}
