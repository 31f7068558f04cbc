"""One line of progress while a scenario runs: alive on a terminal, now and then where the output is a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

#: Seconds between two lines where they cannot be overwritten.
_SELDOM = 5.0


class Progress:
    """Shows what ``line`` answers, whenever ``show`` is called."""

    def __init__(self, line: Callable[[], str], console: Console | None = None) -> None:
        self._line = line
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._shown_at = 0.0

    def show(self) -> None:
        if self._live is not None:
            self._live.update(Text(self._line()))
        elif time.monotonic() - self._shown_at >= _SELDOM:
            self._shown_at = time.monotonic()
            self._console.print(Text(self._line()), soft_wrap=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(Text(self._line()), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shown_at = 0.0
        self.show()
        if self._live is not None:
            self._live.stop()
