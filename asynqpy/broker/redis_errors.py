"""What an error of redis-py means, and how it is told to people. Values only; ``scripts.py`` is the door they pass.

Each text says whether something may have been written.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from asynqpy.broker.outage import CERTIFICATE_REFUSED, CONNECTING, advice
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerFullError, BrokerUnavailableError

#: Everything redis-py raises of its own: the errors of its cluster client are no ``RedisError``.
ALL_ERRORS = (redis_errors.RedisError, redis_errors.RedisClusterException)


class Kind(Enum):
    """What is wrong, as far as it matters to who calls."""

    #: No connection could be made.
    UNREACHABLE = auto()
    #: The connection broke.
    BROKEN = auto()
    #: No answer came in time.
    SILENT = auto()
    LOADING = auto()
    #: It is a replica: writes go to another.
    READONLY = auto()
    #: It answers, but cannot serve: a replica without its master, a cluster that is not whole.
    DOWN = auto()
    #: Of a cluster: the slot is on its way to another node.
    MOVING = auto()
    #: No connection was free.
    BUSY = auto()
    AUTH = auto()
    FULL = auto()
    #: It cannot save to disk, or has too few replicas, and so takes no writes.
    UNSAFE = auto()
    #: Anything else that Redis answered.
    OTHER = auto()


#: Redis, or the way to it, is away: the circuit breaker counts these.
AWAY = {
    Kind.UNREACHABLE,
    Kind.BROKEN,
    Kind.SILENT,
    Kind.LOADING,
    Kind.READONLY,
    Kind.DOWN,
    Kind.UNSAFE,
}

#: Those of them that Redis answers. It may serve other commands meanwhile, so that their success proves nothing.
REFUSING = {Kind.LOADING, Kind.READONLY, Kind.DOWN, Kind.UNSAFE}

#: By class. The first that fits counts; redis-py makes some of these subclasses of its ConnectionError.
_CLASSES: tuple[tuple[type[Exception], Kind], ...] = (
    (redis_errors.AuthenticationError, Kind.AUTH),
    (redis_errors.NoPermissionError, Kind.AUTH),
    (redis_errors.MaxConnectionsError, Kind.BUSY),
    (redis_errors.BusyLoadingError, Kind.LOADING),
    (redis_errors.ReadOnlyError, Kind.READONLY),
    (redis_errors.ClusterDownError, Kind.DOWN),
    (redis_errors.SlotNotCoveredError, Kind.DOWN),
    (redis_errors.TryAgainError, Kind.MOVING),
    (redis_errors.AskError, Kind.MOVING),
    (MasterNotFoundError, Kind.UNREACHABLE),
    (redis_errors.TimeoutError, Kind.SILENT),
    (redis_errors.ConnectionError, Kind.BROKEN),
    (TimeoutError, Kind.SILENT),
    (OSError, Kind.BROKEN),
)

#: By text, before the classes: Redis 6 wraps the error of a command in a script, and redis-py has no class for some.
_TEXTS = (
    (r"NOAUTH|WRONGPASS|NOPERM|invalid username-password|invalid password", Kind.AUTH),
    # Of a command in a script, in the words of Redis 7 and of later ones.
    (r"The user executing the script can't|ACL failure in script", Kind.AUTH),
    (r"No connection available|Too many connections", Kind.BUSY),
    (r"\bREADONLY |previous master is now a (slave|replica)", Kind.READONLY),
    (r"\bOOM |command not allowed when used memory", Kind.FULL),
    (r"\b(MISCONF|NOREPLICAS) ", Kind.UNSAFE),
    (r"\bLOADING ", Kind.LOADING),
    # Of a command in a script, in the words of Redis 7 and of Redis 8.
    (r"non local key in a cluster|during rehashing of (the )?slot", Kind.MOVING),
    (r"\b(MASTERDOWN|CLUSTERDOWN) ", Kind.DOWN),
    (CONNECTING, Kind.UNREACHABLE),
    # Other alerts may come while a write is under way.
    (rf"SSL: \w*_{CERTIFICATE_REFUSED}", Kind.UNREACHABLE),
)


def kind_of(error: Exception) -> Kind:
    text = str(error)
    for pattern, kind in _TEXTS:
        if re.search(pattern, text):
            return kind
    return next((kind for known, kind in _CLASSES if isinstance(error, known)), Kind.OTHER)


def text_of(error: Exception) -> str:
    """The words of Redis, without the place in our script and without passwords."""
    text = str(error)
    if _has_password(error):
        text = text.partition(" : ")[0]
    return _PLACE.sub("", text).rstrip(".") or type(error).__name__


def fit_to_show(error: Exception) -> Exception:
    """The error, or one of its kind without the password that it quotes: tracebacks show causes as well."""
    return MasterNotFoundError(text_of(error)) if _has_password(error) else error


def _has_password(error: Exception) -> bool:
    """Some versions of redis-py list a caller's sentinels with all that they were made with."""
    return isinstance(error, MasterNotFoundError) and "password=" in str(error)


_PLACE = re.compile(r" script: [0-9a-f]{40}, on @user_script:\d+\.?$")


def translate(error: Exception, where: str) -> BrokerError:
    """The ``BrokerError`` for an error of redis-py or of a socket, met with the Redis at ``where``."""
    kind, text = kind_of(error), text_of(error)
    type_of_error, told = _TOLD[kind]
    hint = f"; {advice(text)}" if kind is Kind.UNREACHABLE else ""
    return type_of_error(f"Redis at {where} {told.format(text)}{hint}")


_TOLD: dict[Kind, tuple[type[BrokerError], str]] = {
    Kind.UNREACHABLE: (
        BrokerUnavailableError,
        "could not be reached ({}): nothing was sent",
    ),
    Kind.BROKEN: (
        BrokerUnavailableError,
        "broke the connection ({}): a write under way may have happened",
    ),
    Kind.SILENT: (
        BrokerUnavailableError,
        "did not answer ({}): a write under way may have happened",
    ),
    Kind.LOADING: (
        BrokerUnavailableError,
        "is loading its data from disk ({}): nothing was written",
    ),
    Kind.READONLY: (
        BrokerUnavailableError,
        "is a read-only replica, after a fail-over perhaps ({}): nothing was written; "
        "the next attempt connects anew",
    ),
    Kind.DOWN: (BrokerUnavailableError, "cannot serve now ({}): nothing was written"),
    Kind.MOVING: (
        BrokerUnavailableError,
        "is moving these keys to another node ({}): nothing was written; it takes a moment",
    ),
    Kind.BUSY: (BrokerUnavailableError, "got nothing sent: all connections are busy ({})"),
    Kind.AUTH: (
        BrokerAuthError,
        "refused these credentials or this command ({}): check user, password and ACL",
    ),
    Kind.FULL: (
        BrokerFullError,
        "is full and evicts nothing ({}): nothing was written; "
        "let workers drain the queues, or raise maxmemory",
    ),
    Kind.UNSAFE: (
        BrokerUnavailableError,
        "takes no writes because it could not keep them ({}): nothing was written; "
        "look at its log, its disk and its replicas",
    ),
    Kind.OTHER: (BrokerError, "answered: {}"),
}
