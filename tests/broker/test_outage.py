from __future__ import annotations

import logging

import pytest

from asynqpy.broker.outage import Outage


@pytest.fixture
def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.DEBUG, "asynqpy.broker")
    return Outage("redis:6379/0")


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def test_it_is_said_once_that_redis_is_away_and_once_that_it_is_back(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.begin(100.0)
    for now in (100.0, 101.0, 129.0):
        outage.say("refused", now, certain=True)
    outage.end(130.0)
    away, back = caplog.messages
    assert away.startswith("Redis at redis:6379/0 is away: refused. ")
    assert back == "Redis at redis:6379/0 is back after 30.0 s"
    assert levels(caplog) == ["WARNING", "INFO"]
    assert outage.count == 1


def test_an_absence_that_lasts_is_said_again_each_half_minute(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.begin(100.0)
    outage.say("refused", 100.0, certain=True)
    outage.attempts = 48
    outage.say("timed out", 130.0, certain=True)
    outage.say(None, 131.0, certain=True)
    outage.say(None, 160.0, certain=True)
    assert caplog.messages[1] == (
        "Redis at redis:6379/0 has been away for 30 s, tried 48 times so far: timed out"
    )
    assert levels(caplog) == ["WARNING"] * 3


def test_a_connection_that_breaks_is_no_absence_and_said_now_and_then(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (100.0, 110.0, 131.0):
        outage.begin(now)
        outage.say("reset", now, certain=False)
        outage.end(now)
    assert caplog.messages == [
        "Redis at redis:6379/0 broke a connection (1 so far): reset",
        "Redis at redis:6379/0 broke a connection (3 so far): reset",
    ]
    assert levels(caplog) == ["INFO"] * 2
    assert outage.count == 0


def test_busy_connections_are_said_now_and_then(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (100.0, 129.0, 130.0):
        outage.say_busy("all busy", now)
    assert caplog.messages == ["all busy"] * 2


def test_the_error_says_since_when_for_how_long_and_why(outage: Outage) -> None:
    outage.begin(100.0)
    outage.say("refused", 100.0, certain=True)
    text = str(outage.error(103.25))
    assert text.startswith("Redis at redis:6379/0 has been away for 3.2 s, since ")
    assert text.endswith(" UTC (refused): nothing was sent")
