from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Tests that use servers as their users do, and do not count calls. A few: docs/reliability.md has them all.
TESTS = ("tests/acceptance/test_web_app.py", "tests/server/test_server_processing.py")


def test_servers_whose_round_trips_fail_now_and_then_pass_the_tests_of_healthy_ones() -> None:
    plugin = ("-p", "tests.chaos.failing_servers", "--redis-errors", "0.005")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *TESTS],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.returncode == 0, run.stdout
