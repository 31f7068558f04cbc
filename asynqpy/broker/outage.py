"""What is known about a Redis that is away, and what of it goes into the log and into errors."""

from __future__ import annotations

import logging
import re

from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerUnavailableError

logger = logging.getLogger("asynqpy.broker")

#: What says in an error that there was no connection yet: nothing of ours was sent.
CONNECTING = "connecting to"

#: What says in an error that a certificate was refused, which in TLS 1.3 is told when the connection seems to be there.
CERTIFICATE_REFUSED = r"ALERT_\w*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)"

#: What to do about a Redis that takes no connection ...
_CHECK = "check that it runs, the address, and TLS (rediss://)"

#: ... and where more is known, by what was heard of it. The first that fits counts.
_SPECIAL_CHECKS = (
    (
        r"CERTIFICATE_VERIFY_FAILED.*(ostname|IP address) mismatch",
        "its certificate bears another name: check the address, or name it with ssl_server_name",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED.*(has expired|not yet valid)",
        "its certificate is not trusted, because of its dates: renew it, or check the clock of this host",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted: name the authority that signed it with ssl_ca_certs",
    ),
    (
        rf"{CERTIFICATE_REFUSED}|hung up after the TLS handshake",
        "it seems to want a client certificate, or another one: check ssl_certfile and ssl_keyfile",
    ),
    (
        r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|SSL handshake",
        "it does not speak TLS at this port, or not ours: try redis:// instead of rediss://, or another port",
    ),
    (r"no sentinel names a master.*No such master", "check master= in the URL"),
)


def advice(reason: str) -> str:
    """What to do about a Redis that takes no connection for this reason."""
    return _special_advice(reason) or _CHECK


def _special_advice(reason: str) -> str | None:
    found = (it for pattern, it in _SPECIAL_CHECKS if re.search(pattern, reason, re.DOTALL))
    return next(found, None)


def _with_special_advice(reason: str) -> str:
    found = _special_advice(reason)
    return reason if found is None else f"{reason.rstrip('.')}; {found}"


#: Seconds between two lines in the log about the same outage, or about the same sort of trouble.
_SAY_AGAIN = 30.0


class Outage:
    """Of one Redis, the latest; instants are those of ``time.monotonic``. Not thread-safe.

    It is said once that Redis is away, again every half minute, and once that it is back.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        #: How many there were.
        self.count = 0
        #: How often it was tried to end this one.
        self.attempts = 0
        self._reason = ""
        self._began_at = 0.0
        self._began_unix = 0.0
        self._said_at: float | None = None
        self._broken = 0
        self._said_broken_at = self._said_busy_at = float("-inf")

    def begin(self, now: float) -> None:
        """Something failed: Redis may be away since now."""
        self._began_at, self._began_unix = now, Clock().now()
        self._said_at = None
        self.attempts = 0

    def say(self, reason: str | None, now: float, *, certain: bool) -> None:
        """Log what is news. ``reason`` is the latest failure, ``None`` the same one. Until ``certain``, it is small."""
        self._reason = reason or self._reason
        if self._said_at is not None:
            self._say_again(now)
        elif certain:
            self._said_at = now
            self.count += 1
            logger.warning(
                "Redis at %s is away: %s. It is tried up to twice a second until it is back; "
                "meanwhile calls fail after about a second",
                self.description,
                _with_special_advice(self._reason),
            )
        else:
            self._say_broken(now)

    def move(self, reason: str) -> None:
        """Redis has become another: that counts as an outage, also in the midst of one."""
        self._reason = reason
        self.count += 1
        logger.info("Redis at %s: %s", self.description, reason)

    def _say_again(self, now: float) -> None:
        assert self._said_at is not None
        if now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            logger.warning(
                "Redis at %s has been away for %.0f s, tried %d times so far: %s",
                self.description,
                now - self._began_at,
                self.attempts,
                _with_special_advice(self._reason),
            )

    def _say_broken(self, now: float) -> None:
        self._broken += 1
        if now - self._said_broken_at >= _SAY_AGAIN:
            logger.info(
                "Redis at %s broke a connection (%d so far): %s",
                self.description,
                self._broken,
                self._reason,
            )
            self._said_broken_at = now

    def say_busy(self, message: str, now: float) -> None:
        if now - self._said_busy_at >= _SAY_AGAIN:
            self._said_busy_at = now
            logger.warning("%s", message)

    def end(self, now: float) -> None:
        """Redis answers."""
        if self._said_at is not None:
            away = now - self._began_at
            logger.info("Redis at %s is back after %.1f s", self.description, away)
            self._said_at = None

    def error(self, now: float) -> BrokerUnavailableError:
        """What a call meets that was not sent."""
        since = instant(self._began_unix).strftime("%H:%M:%S")
        told = CONNECTING in self._reason or _special_advice(self._reason)
        hint = f"; {advice(self._reason)}" if told else ""
        return BrokerUnavailableError(
            f"Redis at {self.description} has been away for {now - self._began_at:.1f} s, "
            f"since {since} UTC ({self._reason}): nothing was sent{hint}"
        )
