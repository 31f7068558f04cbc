from __future__ import annotations

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from asynqpy.broker.redis_errors import (
    AWAY,
    REFUSING,
    Kind,
    fit_to_show,
    kind_of,
    text_of,
    translate,
)
from asynqpy.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerFullError,
    BrokerUnavailableError,
)

IN_SCRIPT = "Error running script (call to f_1): @user_script:38: @user_script: 38: -"
"""How Redis 6 begins the error of a command in a script; Redis 7 begins with the command's."""

FULL = "command not allowed when used memory > 'maxmemory'."
REPLICA = "You can't write against a read only replica."

CASES: list[tuple[Exception, Kind]] = [
    (redis_errors.ConnectionError("Error 111 connecting to localhost:6379."), Kind.UNREACHABLE),
    (redis_errors.TimeoutError("Timeout connecting to server"), Kind.UNREACHABLE),
    (MasterNotFoundError("No master found for 'mymaster'"), Kind.UNREACHABLE),
    (redis_errors.ConnectionError("Connection closed by server."), Kind.BROKEN),
    (ConnectionResetError(), Kind.BROKEN),
    (redis_errors.TimeoutError("Timeout reading from socket"), Kind.SILENT),
    (TimeoutError(), Kind.SILENT),
    (redis_errors.BusyLoadingError("Redis is loading the dataset in memory"), Kind.LOADING),
    (redis_errors.ReadOnlyError(REPLICA), Kind.READONLY),
    (redis_errors.ResponseError(f"{IN_SCRIPT}READONLY {REPLICA}"), Kind.READONLY),
    (redis_errors.ConnectionError("The previous master is now a slave"), Kind.READONLY),
    (redis_errors.ClusterDownError("The cluster is down"), Kind.DOWN),
    (redis_errors.SlotNotCoveredError('Slot "5718" is not covered by the cluster.'), Kind.DOWN),
    (redis_errors.MasterDownError("Link with MASTER is down"), Kind.DOWN),
    (
        redis_errors.TryAgainError("Multiple keys request during rehashing of slot"),
        Kind.MOVING,
    ),
    (
        redis_errors.ResponseError("Script attempted to access a non local key in a cluster node"),
        Kind.MOVING,
    ),
    (
        redis_errors.ResponseError(
            "Unable to execute command 'exists' in script because undeclared keys were accessed "
            "during rehashing of the slot"
        ),
        Kind.MOVING,
    ),
    (redis_errors.ConnectionError("No connection available."), Kind.BUSY),
    (redis_errors.MaxConnectionsError(), Kind.BUSY),
    (redis_errors.ConnectionError("Too many connections"), Kind.BUSY),
    (redis_errors.ResponseError("NOAUTH Authentication required."), Kind.AUTH),
    (redis_errors.AuthenticationError("invalid password"), Kind.AUTH),
    (redis_errors.NoPermissionError("this user has no permissions"), Kind.AUTH),
    (
        redis_errors.ResponseError(
            "The user executing the script can't run this command or subcommand script: "
            f"{40 * 'a'}, on @user_script:47."
        ),
        Kind.AUTH,
    ),
    (
        redis_errors.ResponseError(
            "ACL failure in script: User ann has no permissions to run the 'lpush' command"
        ),
        Kind.AUTH,
    ),
    (
        redis_errors.ConnectionError("Error 1 connecting to h:1. CERTIFICATE_VERIFY_FAILED"),
        Kind.UNREACHABLE,
    ),
    (
        redis_errors.ConnectionError("(1, '[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert')"),
        Kind.UNREACHABLE,
    ),
    (
        redis_errors.ConnectionError("(1, '[SSL: SSLV3_ALERT_BAD_RECORD_MAC] sslv3 alert')"),
        Kind.BROKEN,
    ),
    (redis_errors.ResponseError(f"OOM {FULL}"), Kind.FULL),
    (redis_errors.ResponseError(FULL), Kind.FULL),
    (redis_errors.ResponseError(f"{IN_SCRIPT}OOM {FULL}"), Kind.FULL),
    (redis_errors.ResponseError("MISCONF Redis is configured to save RDB snapshots"), Kind.UNSAFE),
    (redis_errors.ResponseError("NOREPLICAS Not enough good replicas to write."), Kind.UNSAFE),
    (redis_errors.ResponseError("WRONGTYPE Operation against a key"), Kind.OTHER),
]

TYPES = {
    Kind.AUTH: BrokerAuthError,
    Kind.FULL: BrokerFullError,
    Kind.UNSAFE: BrokerUnavailableError,
    Kind.OTHER: BrokerError,
}


@pytest.mark.parametrize(("error", "kind"), CASES, ids=repr)
def test_an_error_is_known_by_class_or_text(error: Exception, kind: Kind) -> None:
    assert kind_of(error) is kind


@pytest.mark.parametrize(("error", "kind"), CASES, ids=repr)
def test_an_error_is_told_with_its_place_and_the_words_of_redis(
    error: Exception, kind: Kind
) -> None:
    told = translate(error, "localhost:6379/0")
    assert type(told) is TYPES.get(kind, BrokerUnavailableError)
    assert "localhost:6379/0" in str(told)
    assert text_of(error) in str(told)


@pytest.mark.parametrize("error", [e for e, kind in CASES if kind not in {Kind.AUTH, Kind.OTHER}])
def test_every_trouble_says_whether_something_may_have_been_written(error: Exception) -> None:
    told = str(translate(error, "here"))
    in_doubt = "may have happened" in told
    assert in_doubt == (kind_of(error) in {Kind.BROKEN, Kind.SILENT})
    assert in_doubt or "nothing was" in told or "nothing sent" in told


def test_an_error_without_a_text_is_told_by_its_name() -> None:
    assert text_of(ConnectionResetError()) == "ConnectionResetError"


def test_what_redis_refuses_for_now_counts_as_away() -> None:
    assert REFUSING < AWAY
    assert not AWAY & {Kind.BUSY, Kind.AUTH, Kind.FULL, Kind.OTHER}


def test_a_callers_sentinels_are_not_quoted_with_their_passwords() -> None:
    listed = "<redis.asyncio.client.Redis(<Connection(host=h,password=s3cret)>)> - TimeoutError()"
    error = MasterNotFoundError(f"No master found for 'm' : {listed}")
    shown = fit_to_show(error)
    assert (type(shown), str(shown)) == (MasterNotFoundError, "No master found for 'm'")
    assert "s3cret" not in str(translate(error, "m/0 by sentinels h:1"))
    harmless = MasterNotFoundError("No master found for 'm' : h:1 - timed out")
    assert fit_to_show(harmless) is harmless
    assert "h:1 - timed out" in text_of(harmless)
