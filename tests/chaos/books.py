"""Closes the books of a run: figures from the ledger and from Redis, and which promises were broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.accounts import Accounts, balance, percentile
from tests.chaos.scenario import Figure, Result
from tests.chaos.verifier import Verdict

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

_EXAMPLES = 5


@dataclass(slots=True)
class Books:
    """``result`` has the figures that all scenarios share, and breaches of what holds in all of them."""

    accounts: Accounts
    verdict: Verdict
    result: Result
    #: How many times as long as promised things may take.
    slack: float = 1.0

    def demand_soon(self, seconds: float, limit: float, what: str) -> None:
        """Note a breach where something took longer than promised, and than the size of the run excuses."""
        if seconds > limit * self.slack:
            self.result.breaches.append(f"{what} took {seconds:.1f} s, not <= {limit:g} s")

    def demand_some(self, count: float, what: str) -> None:
        """Note a breach where nothing was measured: a promise about it would be kept by any."""
        if not count:
            self.result.breaches.append(f"there were no {what}: nothing was shown")

    def demand(self, holds: bool, otherwise: str) -> None:
        """Note a breach of a promise of the scenario's own."""
        if not holds:
            self.result.breaches.append(otherwise)

    def demand_none(self, found: Collection[str], what: str) -> None:
        if found:
            self.result.breaches.append(f"{len(found)} {what}: {some(found)}")


def close_books(stage: Stage, verdict: Verdict) -> Books:
    """The promise that holds everywhere: nothing lost, nothing stuck, nothing run again but what was in flight."""
    ledger = stage.ledger
    left = [task_id for ids in verdict.left.values() for task_id in ids]
    accounts = balance(ledger, verdict.archived, left)
    result = Result(stage.settings.scenario, stage.settings.engine)
    result.figures = _figures(stage, accounts, verdict)
    result.series = {
        "acknowledged": [(at, acked) for at, acked, _ in stage.samples],
        "finished": [(at, finished) for at, _, finished in stage.samples],
    }
    if accounts.latencies:
        result.series["restarts"] = _shares(accounts.latencies)
    result.marks = [((f.at - stage.started_ns) / 1e9, f.kind) for f in ledger.faults]
    books = Books(accounts, verdict, result, stage.settings.slack)
    counts = {place: len(ids) for place, ids in verdict.left.items()}
    books.demand(verdict.drained, f"not drained: {counts}")
    books.demand_none(accounts.lost, "tasks lost")
    books.demand_none(left, "tasks stuck")
    books.demand_none(verdict.unsound, "invariants broken")
    books.demand_none(verdict.keys, "keys leaked")
    books.demand_none(accounts.unexcused, "runs again of tasks that were in flight at no fault")
    books.demand_none(accounts.archived_untried, "tasks archived without a finished attempt")
    return books


def _figures(stage: Stage, accounts: Accounts, verdict: Verdict) -> dict[str, Figure]:
    ledger, latencies = stage.ledger, accounts.latencies
    return {
        "seconds": round(stage.elapsed, 1),
        "acknowledged": ledger.acked,
        "finished": sum(story.finished for story in ledger.tasks.values()),
        "archived": len(accounts.archived),
        "lost": len(accounts.lost),
        "stuck": verdict.stuck,
        "invariants_broken": len(verdict.unsound),
        "leaked_locks": len(verdict.locks),
        "leaked_keys": len(verdict.keys),
        "executions": ledger.started,
        "faults": len(ledger.faults),
        **{f"faults_{kind}": n for kind, n in Counter(f.kind for f in ledger.faults).items()},
        "in_flight_at_faults": accounts.in_flight,
        "extra_runs": accounts.extra,
        "extra_runs_in_flight": accounts.excused,
        "extra_runs_doubtful_enqueue": accounts.doubtful,
        "extra_runs_unexcused": len(accounts.unexcused),
        "finished_run_again": len(accounts.finished_again),
        "archived_untried": len(accounts.archived_untried),
        "retries_burned": sum(accounts.burned.values()),
        "restarts_measured": len(latencies),
        "restart_p50_s": round(percentile(latencies, 50), 2),
        "restart_p95_s": round(percentile(latencies, 95), 2),
        "restart_p99_s": round(percentile(latencies, 99), 2),
        "restart_max_s": round(max(latencies, default=0.0), 2),
        "later_restarts_measured": len(accounts.later_latencies),
        "later_restart_max_s": round(max(accounts.later_latencies, default=0.0), 2),
        "drain_s": round(verdict.drain_seconds, 1),
    }


def _shares(latencies: list[float], points: int = 500) -> list[tuple[float, float]]:
    """The distribution: (s, share of all that took no longer), at so many points at most."""
    ordered = sorted(latencies)
    last = len(ordered) - 1
    places = sorted({round(last * point / points) for point in range(points + 1)})
    return [(ordered[place], (place + 1) / len(ordered)) for place in places]


def some(texts: Collection[str]) -> str:
    """The first few of many."""
    shown = ", ".join(list(texts)[:_EXAMPLES])
    return f"{shown}, ..." if len(texts) > _EXAMPLES else shown
