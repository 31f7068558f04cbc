from __future__ import annotations

import pytest

from asynqpy.broker.outcomes import SilentLease
from asynqpy.server.watch import Watch, silent_until

NOW = 1_700_000_000.0
OWNER = "host1:1234:abc"


def of_ours(left: float, task_id: bytes = b"t1", owner: str = OWNER) -> SilentLease:
    """A lease with so many seconds left."""
    return SilentLease("default", task_id, f"{NOW + left:.0f}.25", owner)


def of_go(left: float) -> SilentLease:
    return SilentLease("default", b"t1", f"{NOW + left:.0f}")


def watched(
    lease: SilentLease, *, dead: bool, seconds: int, since: float = NOW
) -> list[SilentLease]:
    """What the last of several looks, one each second, says."""
    watch, orphans = Watch(), []
    for second in range(seconds + 1):
        orphans = watch.look([lease], {lease} if dead else set(), since + second)
    return orphans


def test_lease_of_a_dead_server_is_an_orphan_after_ten_seconds_of_silence() -> None:
    lease = of_ours(30)
    assert watched(lease, dead=True, seconds=5, since=NOW + 4) == []
    assert watched(lease, dead=True, seconds=5, since=NOW + 6) == [lease]


def test_lease_of_a_living_server_is_nobodys_only_when_it_is_long_over() -> None:
    assert watched(of_ours(30), dead=False, seconds=35) == []
    lease = of_ours(0)
    assert watched(lease, dead=False, seconds=9) == []
    assert watched(lease, dead=False, seconds=11) == [lease]


def test_lease_of_a_go_server_gets_thirty_seconds_for_the_clock_of_its_host() -> None:
    lease = of_go(0)
    assert watched(lease, dead=True, seconds=29) == []
    assert watched(lease, dead=True, seconds=30) == [lease]


def test_lease_without_an_owner_is_judged_by_its_end() -> None:
    lease = of_ours(0, owner="")
    assert watched(lease, dead=False, seconds=9) == []
    assert watched(lease, dead=False, seconds=11) == [lease]


def test_one_look_is_never_enough() -> None:
    watch = Watch()
    assert watch.look([of_ours(-300)], {of_ours(-300)}, NOW) == []
    assert watch.look([of_ours(-300)], {of_ours(-300)}, NOW + 4.9) == []
    assert watch.look([of_ours(-300)], {of_ours(-300)}, NOW + 5) == [of_ours(-300)]


def test_lease_that_is_extended_meanwhile_is_watched_anew() -> None:
    watch = Watch()
    watch.look([of_ours(-300)], {of_ours(-300)}, NOW)
    watch.look([of_ours(-299)], {of_ours(-299)}, NOW + 3)
    assert watch.look([of_ours(-299)], {of_ours(-299)}, NOW + 7) == []
    assert watch.look([of_ours(-299)], {of_ours(-299)}, NOW + 8) == [of_ours(-299)]


def test_server_that_shows_itself_again_keeps_what_it_holds() -> None:
    watch, lease = Watch(), of_ours(15)
    watch.look([lease], {lease}, NOW)
    assert watch.look([lease], set(), NOW + 5) == []


@pytest.mark.parametrize("interruption", ["forget", "long gap", "clock set back"])
def test_after_an_interruption_watching_starts_anew(interruption: str) -> None:
    """Redis was away: its return must not make orphans of all that was running."""
    watch, lease, back = Watch(), of_ours(-300), NOW + 5
    watch.look([lease], {lease}, NOW)
    if interruption == "forget":
        watch.forget()
    else:
        back = NOW + 60 if interruption == "long gap" else NOW - 60
    assert watch.look([lease], {lease}, back) == []
    assert watch.look([lease], {lease}, back + 5) == [lease]


def test_leases_are_told_apart_by_queue_and_id() -> None:
    watch = Watch()
    others = [of_ours(-300, b"t2"), SilentLease("low", b"t1", of_ours(-300).score, OWNER)]
    watch.look([of_ours(-300)], {of_ours(-300)}, NOW)
    assert watch.look([of_ours(-300), *others], {of_ours(-300), *others}, NOW + 5) == [
        of_ours(-300)
    ]


def test_leases_are_watched_before_they_can_be_orphans() -> None:
    until, go_until = silent_until(NOW)
    assert until >= NOW + 20
    assert go_until == NOW - 30
