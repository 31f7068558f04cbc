from __future__ import annotations

import re

import pytest

from tests.eventually import eventually
from tests.examples.program import Program, run
from tests.requires import need_openssl
from tests.topologies.tls import skip_without_tls

MODULE = "examples.topologies"
DONE = re.compile(r"(\w+) +([\d,]+) done")
SUMMARY = re.compile(r"^(\w+): enqueued ([\d,]+), done ([\d,]+), missing (\d+)", re.MULTILINE)


def done(line: str) -> dict[str, int]:
    """The tasks of each queue that a line of every second tells of."""
    return {queue: int(count.replace(",", "")) for queue, count in DONE.findall(line)}


def works_since_the_kill(program: Program) -> bool:
    """Every queue has had more tasks done than when the primary was killed."""
    _, killed, after = program.output.partition("is killed")
    found = [queues for line in after.splitlines() if (queues := done(line))]
    return bool(killed and found) and all(found[-1][q] > found[0][q] + 20 for q in found[0])


def test_tasks_flow_through_a_single_server() -> None:
    assert_all_ran(run(MODULE, "single", "--seconds", "2").output, "single: redis://127.0.0.1:")


def test_tasks_flow_through_tls() -> None:
    need_openssl()
    try:
        output = run(MODULE, "tls", "--seconds", "2").output
    except AssertionError as error:
        skip_without_tls(RuntimeError(str(error)))
        raise
    assert_all_ran(output, "tls: rediss://127.0.0.1:")


def assert_all_ran(output: str, start: str) -> None:
    assert output.startswith(start)
    found = SUMMARY.findall(output)
    assert [queue for queue, *_ in found] == ["emails", "critical", "low"]
    assert all(enqueued == ran != "0" and missing == "0" for _, enqueued, ran, missing in found)
    assert output.endswith("nothing is left running")


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
async def test_work_goes_on_after_the_primary_was_killed(topology: str) -> None:
    with Program(MODULE, topology, "--kill") as program:
        await eventually(lambda: works_since_the_kill(program), within=60)
    assert program.output.startswith(f"{topology}: redis-{topology}://127.0.0.1:")


async def test_servers_alone_are_there_until_ctrl_c() -> None:
    with Program(MODULE, "single", "--servers-only") as program:
        await eventually(lambda: program.lines, within=60)
    assert program.lines[-1] == "nothing is left running"
    assert not any(done(line) for line in program.lines)
