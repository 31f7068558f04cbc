"""The Heartbeater: shows that the server lives, and keeps the leases of what it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import ServerInfo, WorkerInfo
from asynqpy.broker.outcomes import Lease
from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerError
from asynqpy.server.runs import Run, Runs
from asynqpy.server.service import Service
from asynqpy.task import CancelCause

logger = logging.getLogger("asynqpy.server")


class Heartbeater(Service):
    """Each beat extends the leases of all runs, anchors the clock to Redis and publishes the server's presence.

    It runs in a thread with connections of its own, so that a handler which blocks the event loop loses no lease. What
    it finds lost it cancels on the server's loop.
    """

    longest_back_off = 1.0

    def __init__(
        self,
        *,
        broker: Broker,
        clock: Clock,
        runs: Runs,
        describe: Callable[[int], ServerInfo],
        server_loop: asyncio.AbstractEventLoop,
        interval: float = 5.0,
    ) -> None:
        """``describe(running)`` tells the server as it is now."""
        super().__init__(interval=interval, at_once=True)
        self._broker = broker
        self._clock = clock
        self._runs = runs
        self._describe = describe
        self._server_loop = server_loop
        # Two beats may fail before the server is taken for dead.
        self._ttl = max(1, round(2 * interval))

    async def tick(self) -> float | None:
        started = time.monotonic()
        try:
            # First: after the host has slept, leases extended by the old time would be extended into the past.
            await self._broker.sync_clock()
        finally:
            # At the same time: where the way to Redis is long, a beat must not take several times as long.
            failures = await asyncio.gather(self._extend(), self._show(), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure
        # From beat to beat, not from the end of one to the next.
        return max(0.0, self._interval - (time.monotonic() - started))

    async def _show(self) -> None:
        runs = self._runs.snapshot()
        info = self._describe(len(runs))
        workers = [_worker_info(info, run) for run in runs]
        await self._broker.write_server_state(info, workers, self._ttl)

    async def finish(self) -> None:
        """Leave no trace of the server, and close the connections."""
        try:
            await self._broker.clear_server_state(self._describe(0))
        except BrokerError as error:
            logger.warning("could not remove the server from the list of servers: %s", error)
        finally:
            await self._broker.close()

    async def _extend(self) -> None:
        """Extend the leases. One that ran out for want of an answer is as good as lost: others may take the task."""
        held, granted = self._runs.held(), self._runs.granted()
        lost: list[Lease] = []
        try:
            grants = asyncio.ensure_future(self._broker.extend_grants(granted))
            try:
                if held:
                    lost = await self._broker.extend_lease(list(held))
            finally:
                await grants
        finally:
            now = self._clock.now()
            lapsed = {lease for lease in held if lease.expires_at <= now}.difference(lost)
            self._give_up([held[lease] for lease in lost], lapsed=False)
            self._give_up([held[lease] for lease in lapsed], lapsed=True)

    def _give_up(self, runs: Sequence[Run], *, lapsed: bool) -> None:
        for run in runs:
            self._server_loop.call_soon_threadsafe(self._cancel, run, lapsed)

    def _cancel(self, run: Run, lapsed: bool) -> None:
        # On the server's loop: the run may have ended while the beat was under way, and then nothing is lost.
        if run.ended:
            return
        self._runs.let_go(run.lease)
        run.lapsed = lapsed
        logger.warning(
            "the lease of task %s (%s) %s; its handler is cancelled",
            run.message.id,
            run.message.type,
            "ran out: Redis did not answer" if lapsed else "is lost to another worker",
            extra={"task_id": run.message.id, "queue": run.message.queue},
        )
        run.cancel(CancelCause.LEASE_LOST)


def _worker_info(server: ServerInfo, run: Run) -> WorkerInfo:
    return WorkerInfo(
        host=server.host,
        pid=server.pid,
        server_id=server.server_id,
        task_id=run.message.id,
        task_type=run.message.type,
        task_payload=run.message.payload,
        queue=run.message.queue,
        start_time=instant(run.started_at),
        deadline=instant(run.deadline),
    )
