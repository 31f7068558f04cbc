"""What is known about a Redis that is away, and what of it goes into the log and into errors."""

from __future__ import annotations

import logging

from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerUnavailableError

logger = logging.getLogger("asynqpy.broker")

#: What to do about a Redis that takes no connection.
CHECK = "check that it runs, the address, and TLS (rediss://)"

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
                self._reason,
            )
        else:
            self._say_broken(now)

    def _say_again(self, now: float) -> None:
        assert self._said_at is not None
        if now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            logger.warning(
                "Redis at %s has been away for %.0f s, tried %d times so far: %s",
                self.description,
                now - self._began_at,
                self.attempts,
                self._reason,
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
        hint = f"; {CHECK}" if "connecting to" in self._reason else ""
        return BrokerUnavailableError(
            f"Redis at {self.description} has been away for {now - self._began_at:.1f} s, "
            f"since {since} UTC ({self._reason}): nothing was sent{hint}"
        )
