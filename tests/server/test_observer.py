from __future__ import annotations

import pytest

from asynqpy import SkipRetry
from asynqpy.broker.outcomes import Archive, Done, Outcome, Requeue, Retry
from asynqpy.server.observer import AttemptEnd, end_of_failure, guarded


@pytest.mark.parametrize(
    ("error", "outcome", "end"),
    [
        (ValueError(), Retry(1.0, ""), AttemptEnd.RETRY),
        (ValueError(), Retry(1.0, "", counted=False), AttemptEnd.POSTPONED),
        (ValueError(), Archive(""), AttemptEnd.ARCHIVED),
        (SkipRetry(), Archive(""), AttemptEnd.SKIPPED),
        (ValueError(), Done(), AttemptEnd.REVOKED),
        (ValueError(), Requeue(), AttemptEnd.REQUEUED),
        (ValueError(), None, AttemptEnd.LOST),
    ],
)
def test_an_end_goes_by_the_outcome(
    error: BaseException, outcome: Outcome | None, end: AttemptEnd
) -> None:
    assert end_of_failure(error, outcome) is end


def test_a_fault_of_an_observer_is_logged_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def tell(value: int) -> None:
        raise RuntimeError("no")

    guarded(tell)(1)
    assert "the observer failed" in caplog.text
