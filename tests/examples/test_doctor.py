from __future__ import annotations

from tests.examples.program import run

MODULE = "examples.doctor"


def test_damage_is_told_of_then_healed_and_the_stuck_task_runs() -> None:
    output = run(MODULE, REDIS_URL="redis://127.0.0.1:1").output  # not to be touched
    examined, healed, again = (n for n in output.splitlines() if "looked at" in n)
    assert examined.endswith("3 problems found, nothing changed")
    assert healed.endswith("3 problems found, 3 healed")
    assert again.endswith("healthy")
    for line in (
        "default: stuck (state active, in active) -> put in pending",
        "default: evicted (in pending) -> removed",
        "default: unique:report: (held by deleted) -> deleted",
    ):
        assert output.count(line) == 2
    assert {"ran stuck", "ran healthy"} <= set(output.splitlines())
