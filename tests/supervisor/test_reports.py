from __future__ import annotations

import pytest

from asynqpy.server.census import Vitals
from asynqpy.supervisor.reports import (
    Pace,
    ProcessState,
    Report,
    decode,
    encode,
    pace,
    report_on,
    stop_limit,
)


def vitals(state: str, **values: float) -> Vitals:
    defaults = {"running": 0, "concurrency": 10, "ended": 0, "shutdown_timeout": 8.0}
    return Vitals(state, **(defaults | values))  # type: ignore[arg-type]


def report(servers: list[Vitals]) -> Report:
    return report_on(servers, cpu_seconds=0.0, at=0.0)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], ProcessState.STARTING),
        (["active"], ProcessState.RUNNING),
        (["stopped"], ProcessState.PAUSED),
        (["closed"], ProcessState.STOPPING),
        (["closed", "stopped"], ProcessState.PAUSED),
        (["closed", "stopped", "active"], ProcessState.RUNNING),
    ],
)
def test_most_wakeful_server_says_how_awake_its_process_is(
    states: list[str], expected: ProcessState
) -> None:
    assert report([vitals(state) for state in states]).state is expected


def test_servers_of_a_process_are_summed_up() -> None:
    servers = [
        vitals("active", running=3, ended=5, shutdown_timeout=2.0),
        vitals("active", running=1, ended=2, shutdown_timeout=30.0),
    ]
    expected = Report(ProcessState.RUNNING, 4, 20, 7, 30.0, 1.5, 99.0)
    assert report_on(servers, cpu_seconds=1.5, at=99.0) == expected


def test_server_that_was_shut_down_takes_no_part_in_the_concurrency() -> None:
    servers = [vitals("active"), vitals("closed", running=2, ended=9)]
    told = report(servers)
    assert (told.running, told.concurrency, told.ended) == (2, 10, 9)


def test_report_is_a_line() -> None:
    told = Report(ProcessState.RUNNING, 4, 20, 7, 30.0, 1.5, 99.0, "line\nbreak")
    line = encode(told)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == told


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[]", b'{"state":"asleep"}'])
def test_anything_else_is_no_report(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_process_gets_ten_seconds_more_than_its_servers_to_stop() -> None:
    assert stop_limit(Report(shutdown_timeout=30.0)) == 40
    assert stop_limit(Report()) == 10


def test_pace_is_what_happened_between_two_reports() -> None:
    before = Report(ended=100, cpu_seconds=2.0, at=50.0)
    after = Report(ended=400, cpu_seconds=3.0, at=52.0)
    assert pace(before, after) == Pace(ended=150.0, cpu=0.5)


def test_pace_is_never_negative_nor_infinite() -> None:
    before, after = Report(ended=100, cpu_seconds=2.0, at=50.0), Report(at=51.0)
    same_time = Report(ended=400, cpu_seconds=3.0, at=50.0)
    assert pace(before, after) == pace(before, same_time) == Pace()
