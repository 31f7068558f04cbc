from __future__ import annotations

import logging

import pytest

from asynqpy.broker.outage import Outage, advice


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


def test_a_redis_that_has_become_another_counts_as_an_outage_and_is_no_warning(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.begin(100.0)
    outage.move("another master is named")
    outage.end(100.1)
    assert caplog.messages == ["Redis at redis:6379/0: another master is named"]
    assert levels(caplog) == ["INFO"]
    assert outage.count == 1
    outage.say("refused", 101.0, certain=True)
    outage.move("and another")
    assert outage.count == 3
    assert "(and another)" in str(outage.error(102.0))


VERIFY = "Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "

ADVICE = [
    ("Error 111 connecting to h:1. Connection refused.", "check that it runs, the address, and"),
    (f"{VERIFY}unable to get local issuer certificate (_ssl.c:1006)", "not trusted: name the auth"),
    (f"{VERIFY}self-signed certificate (_ssl.c:1006)", "its certificate is not trusted: name the"),
    (f"{VERIFY}certificate has expired (_ssl.c:1006)", "not trusted, because of its dates"),
    (f"{VERIFY}certificate is not yet valid (_ssl.c:1006)", "not trusted, because of its dates"),
    (f"{VERIFY}Hostname mismatch, certificate is not valid for 'h'.", "bears another name"),
    (f"{VERIFY}IP address mismatch, certificate is not valid for '::1'.", "bears another name"),
    ("(1, '[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert (_ssl.c:2580)')", "check ssl_certfile"),
    ("Connection lost: [SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert", "want a client certificate"),
    ("connecting to h:1: it hung up after the TLS handshake (reset)", "want a client certificate"),
    ("Error 1 connecting to h:1. [SSL: WRONG_VERSION_NUMBER]", "does not speak TLS at this port"),
    ("SSL handshake is taking longer than 4.0 seconds: aborting", "does not speak TLS at this"),
    ("no sentinel names a master 'a': h:1 - No such master with that name", "check master= in the"),
]


@pytest.mark.parametrize(("reason", "words"), ADVICE)
def test_what_to_do_depends_on_why_there_is_no_connection(reason: str, words: str) -> None:
    assert words in advice(reason)


def test_the_log_and_what_calls_meet_say_what_to_do_about_tls(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.begin(100.0)
    for now in (100.0, 130.0):
        outage.say(f"{VERIFY}certificate has expired", now, certain=True)
    for told in (*caplog.messages, str(outage.error(131.0))):
        assert "because of its dates" in told
