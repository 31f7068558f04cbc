from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.knocks import knocks, most_within

PROGRAM = """
import asyncio, sys
from contextlib import suppress
from pathlib import Path
from tests.chaos.knocks import note_knocks

async def knock():
    for port in (1, 2, 1):
        with suppress(OSError):
            await asyncio.open_connection("127.0.0.1", port)

note_knocks(Path(sys.argv[1]))
asyncio.run(knock())
"""


async def test_attempts_of_a_process_are_told_by_port(tmp_path: Path) -> None:
    began = time.time_ns()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    await asyncio.to_thread(subprocess.run, command, check=True, cwd=Path(__file__).parents[2])
    (to_first,) = knocks(tmp_path, [1])
    (to_both,) = knocks(tmp_path, [1, 2])
    assert (len(to_first), len(to_both)) == (2, 3)
    assert began < to_both[0] <= to_both[-1] < time.time_ns()
    assert knocks(tmp_path, [3]) == [[]]


def test_the_fullest_second_is_found() -> None:
    assert most_within([], 10) == 0
    assert most_within([1, 2, 11, 12, 13, 30], 10) == 3
    assert most_within([0, 10, 20], 10) == 1
