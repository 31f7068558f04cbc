from __future__ import annotations

from tests.examples.program import run

MODULE = "examples.inspector"


def test_queue_is_looked_at_and_cleared_up(redis_url: str) -> None:
    lines = run(MODULE, REDIS_URL=redis_url).output.splitlines()
    assert lines[0] == "5 x pay: ConnectionError: the bank does not answer"
    assert lines[1].startswith("3 x report: ZeroDivisionError")
    assert lines[2:5] == [
        "deleted 3 reports",
        "run again: pay-3, with another amount, and 4 others",
        "payments: 5 pending, 0 archived, 8 failures today",
    ]
    assert lines[5] == '  pay-3 {"amount":33}'
    assert sorted(lines[6:]) == [f'  pay-{n} {{"amount":{n}}}' for n in (1, 2, 4, 5)]
