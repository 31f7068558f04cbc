"""The Processor: takes tasks from Redis as permits are free, starts their handlers, and writes what became of them."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from anyio import Semaphore

from asynqpy.broker.broker import Broker, Turn
from asynqpy.broker.outcomes import Delivery, Lease, Outcome, Requeue, Retry
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, BrokerUnavailableError, LeaseExpiredError
from asynqpy.priority import Priority
from asynqpy.server.demand import Demand
from asynqpy.server.error_report import ErrorReport, LaterReports
from asynqpy.server.executor import LEASE_EXPIRED_TEXT, Executor
from asynqpy.server.lost_grants import LostGrants
from asynqpy.server.nudge import Nudge
from asynqpy.server.runs import Run, Runs
from asynqpy.server.service import Service
from asynqpy.server.settler import Settler, Unsettled, is_of_redis
from asynqpy.server.turns import Turns
from asynqpy.server.verdict import effective_deadline
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Turns under way at once: while Redis works on one, the handlers that the other brought run.
_MOST_TURNS = 2

#: Tasks at least that are worth a turn of their own, where one turn could bring them all.
_SMALLEST_SHARE = 8

#: Seconds that cancelled handlers get to end before their tasks are handed back all the same.
_GRACE = 1.0

#: Seconds before the same queue is complained about again.
_COMPLAIN_AGAIN = 10.0

#: Seconds at most between two looks for new tasks of a server to which others are always faster. With more, it would
#: be too late for the next task as well, and one server would have them all.
_LONGEST_SPACING = 0.03

#: Seconds before a result that Redis did not answer is sent again.
_RESULT_AGAIN = 0.5

#: Seconds before outcomes that Redis refused are offered for the last time when the server stops.
_LAST_FLUSH = 0.5


class Processor(Service):
    """Turns: each is one round trip that writes the outcomes gathered since the last and takes as many new tasks as
    there are free permits. So nothing is hoarded, and under load both travel together.

    A permit is one running handler. It returns when the handler has ended; a plain handler that outlives its deadline
    in its thread keeps its permit until the thread is done.
    """

    longest_back_off = 2.0

    def __init__(
        self,
        *,
        broker: Broker,
        clock: Clock,
        priority: Priority,
        concurrency: int,
        executor: Executor,
        settler: Settler,
        runs: Runs,
        report: ErrorReport,
        task_check_interval: float,
        retry_due: Callable[[float], None] = lambda due: None,
        written: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``retry_due`` is told when (unix s) a task that was put in retry is due.

        ``written`` is told how many outcomes a round trip has taken to Redis.
        """
        super().__init__(interval=task_check_interval, at_once=True)
        self._broker = broker
        self._clock = clock
        self._permits = Semaphore(concurrency)
        self._turns = Turns(self.wake)
        self._overlaps = concurrency >= _MOST_TURNS * _SMALLEST_SHARE
        self._share = concurrency // _MOST_TURNS if self._overlaps else concurrency
        self._executor = executor
        self._settler = settler
        self._runs = runs
        self._retry_due = retry_due
        self._written = written
        self._lost_grants = LostGrants(clock=clock)
        self._reports = LaterReports(report)
        self._fetching = True
        self._nudge = Nudge(self.wake, longest=_LONGEST_SPACING)
        self._arrivals = broker.arrivals(priority.queues, self._nudge)
        self._demand = Demand(priority, self._arrivals)
        self._queues = len(priority.queues)
        self._complained: dict[str, float] = {}
        self._aborted = asyncio.Event()
        #: Held so that the loop does not drop their jobs half-way.
        self._abandoned: list[Run] = []

    async def tick(self) -> float | None:
        self._turns.check()
        free = self._free()
        is_full = self._overlaps and free >= self._share and self._demand.waiting() >= free
        if self._turns and not (is_full and len(self._turns) < _MOST_TURNS):
            return math.inf  # what is under way wakes
        # A lease by the clock of a host that Redis has not confirmed might be over before it begins.
        await self._broker.keep_clock()
        await self._lost_grants.put_back(self._broker)
        wanted = self._demand.draw(free) if free else {}
        unsettled = self._settler.take()
        if not unsettled and not wanted:
            return self._next_due()
        turn = self._turn(unsettled, wanted)
        if not is_full:
            return await turn
        await self._turns.start(turn)
        return 0.0

    def _free(self) -> int:
        """How many tasks to ask for: by the permits that no turn under way may need."""
        if not self._fetching:
            return 0
        return min(self._permits.value - self._demand.promised, self._share)

    async def _turn(self, unsettled: list[Unsettled], wanted: dict[str, int]) -> float:
        """One round trip and what follows from its answer.

        Answers the seconds until the next, which matter to who waits for this one.
        """
        with self._demand.asking(wanted):
            turn = await self._take_turn(unsettled, wanted)
        self._receive(turn.deliveries)
        if not wanted:
            return 0.0
        self._demand.learn({**turn.backlog, **dict.fromkeys(turn.errors, 0)})
        if turn.deliveries and not self._demand.has_more:
            # The handlers begin before anything is asked again: a lone task was waited for.
            await asyncio.sleep(0)
        return self._pause(turn)

    async def _take_turn(self, unsettled: list[Unsettled], wanted: dict[str, int]) -> Turn:
        settlements = [item.settlement for item in unsettled]
        grants = self._broker.grant(wanted)
        try:
            with self._runs.granting(grants):
                turn = await self._broker.turn(settlements, wanted, grants)
        except (Exception, asyncio.CancelledError) as error:
            # The next turn is waited for, and backs off if it fails as well.
            self._demand.forget()
            # Also when it was the stop that lost patience: finish offers them once more.
            self._settler.unanswered(unsettled, error)
            self._lost_grants.add(grants)
            if not is_of_redis(error):
                for item in unsettled:
                    self._runs.let_go(item.lease)
            raise
        self._lost_grants.add(
            grant for grant in grants if _is_unknown(turn.errors.get(grant.queue))
        )
        # Also what Redis refused: it is offered again until its lease ends, and that must come.
        for item, answer in zip(unsettled, turn.settled, strict=True):
            if answer is True or not _is_unknown(answer):
                self._runs.let_go(item.lease)
        for task in self._settler.answered(unsettled, turn.settled):
            self._report_lost(task)
        self._demand.settled(len(unsettled))
        if unsettled:
            self._written(len(unsettled))
        retries = [o for item in unsettled if isinstance(o := item.settlement.outcome, Retry)]
        if retries:
            self._retry_due(min(retry.at for retry in retries))
        return turn

    def _pause(self, turn: Turn) -> float:
        """Seconds until the next turn; whatever ends or arrives meanwhile wakes it."""
        if len(turn.errors) == self._queues:
            raise next(iter(turn.errors.values()))
        # Of a Redis that is away the circuit breaker tells.
        self._complain({q: it for q, it in turn.errors.items() if not _is_unknown(it)})
        has_more = self._demand.has_more
        self._nudge.came_to(has_more or bool(turn.deliveries))
        if has_more:
            return 0.0 if self._permits.value else self._next_due()
        is_told = self._arrivals.arm()
        if turn.deliveries and not is_told:
            return 0.0
        # Up to the interval, spread so that idle servers do not ask in step.
        return min(self._interval * random.uniform(0.5, 1.0), self._next_due())

    def _next_due(self) -> float:
        """Seconds until something must be sent again."""
        return min(self._settler.next_due(), self._lost_grants.next_due())

    def _complain(self, errors: Mapping[str, BrokerError]) -> None:
        """Log queues that could not be asked, each now and then: a busy server asks hundreds of times a second."""
        now = self._clock.now()
        for queue, error in errors.items():
            if now - self._complained.get(queue, 0.0) > _COMPLAIN_AGAIN:
                self._complained[queue] = now
                ids = {"queue": queue}
                logger.error("cannot take tasks of queue %s: %s", queue, error, extra=ids)

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        now, loop = self._clock.now(), asyncio.get_running_loop()
        for delivery in deliveries:
            run = self._run_of(delivery, now)
            if not self._fetching or delivery.lease.expires_at <= now:
                # Stopped, or blocked for so long that others may have the task; the fence tells.
                self._settler.hand_back(run.task, delivery)
                continue
            self._permits.acquire_nowait()
            self._runs.add(run)
            name = f"asynqpy:task:{run.message.type}:{run.message.id}"
            run.job = loop.create_task(self._work(run), name=name)

    def _run_of(self, delivery: Delivery, now: float) -> Run:
        deadline = effective_deadline(delivery.message, now)
        task = ActiveTask(
            delivery.message,
            deadline=deadline,
            write_result=partial(self._write_result, delivery.lease),
        )
        return Run(delivery, task, started_at=now, deadline=deadline)

    async def _write_result(self, lease: Lease, data: bytes) -> None:
        """Until Redis answers: it can be repeated, and its absence is no failure of the task. The deadline ends it."""
        while True:
            with suppress(BrokerUnavailableError):
                if await self._broker.write_result(lease, data):
                    return
                raise LeaseExpiredError(LEASE_EXPIRED_TEXT)
            await asyncio.sleep(_RESULT_AGAIN)

    def claims(self, queue: str, task_id: bytes) -> bool:
        """Whether this server holds a lease on the task, or has an outcome of it still to write."""
        leases = {*self._runs.held(), *self._settler.leases()}
        return any(it.queue == queue and it.id.encode() == task_id for it in leases)

    async def _work(self, run: Run) -> None:
        outcome = None
        try:
            outcome = await self._executor.execute(run)
        finally:
            run.ended = True
            is_ours = self._runs.remove(run)
            self._return_permit(run)
            if outcome is None and is_ours:
                self._runs.let_go(run.lease)
        if outcome is not None and is_ours:
            self._settle(run, outcome)

    def _settle(self, run: Run, outcome: Outcome) -> None:
        if run.lapsed and isinstance(outcome, Requeue):
            self._settler.hand_back(run.task, run.delivery)
        else:
            self._settler.add(run.task, run.delivery, outcome)

    def _return_permit(self, run: Run) -> None:
        thread = run.task.thread
        if thread is None or thread.ended:
            self._release()
            return
        logger.warning(
            "the thread of task %s (%s) runs on; its permit returns when it ends",
            run.message.id,
            run.message.type,
            extra={"task_id": run.message.id, "queue": run.message.queue},
        )
        self.wake()
        thread.when_ended(self._release)

    def _release(self) -> None:
        self._permits.release()
        self.wake()

    def _report_lost(self, task: ActiveTask) -> None:
        """The handler ended, but too late: another worker has the task, and decides about it."""
        logger.warning(
            "task %s (%s) ended after its lease was lost; nothing was written",
            task.id,
            task.type,
            extra={"task_id": task.id, "queue": task.queue},
        )
        self._reports.send([(task, LeaseExpiredError(LEASE_EXPIRED_TEXT))])

    def stop_fetching(self) -> None:
        """Take no more tasks; those that run go on."""
        self._fetching = False

    def abort(self) -> None:
        """Do not wait for handlers any longer."""
        self._aborted.set()

    async def drain(self, timeout: float) -> None:
        """Wait up to ``timeout`` s for the handlers to end, then cancel them and hand their tasks back."""
        self.stop_fetching()
        if await self._have_ended(timeout):
            return
        for run in self._runs:
            run.abort()
        self._aborted.clear()
        if await self._have_ended(_GRACE):
            return
        for run in self._runs:
            logger.error("%r ignores its cancellation; its task is handed back while it runs", run)
            self._runs.remove(run)
            self._abandoned.append(run)
            self._settler.add(run.task, run.delivery, Requeue())
        self.wake()

    async def _have_ended(self, timeout: float) -> bool:
        """Wait until no handler runs, an abort or the timeout; answers whether none does."""
        waits = [
            asyncio.ensure_future(self._runs.wait_until_empty()),
            asyncio.ensure_future(self._aborted.wait()),
        ]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return not len(self._runs)

    async def finish(self) -> None:
        """Write the last outcomes. What Redis still refuses is left to whoever recovers the leases."""
        try:
            await self._turns.end()
        finally:
            await self._write_last()

    async def _write_last(self) -> None:
        try:
            await self._flush()
            if len(self._settler) or len(self._lost_grants):
                await asyncio.sleep(_LAST_FLUSH)
                await self._flush()
            await self._reports.wait()
        finally:
            await self._reports.cancel()

    async def _flush(self) -> None:
        unsettled = self._settler.take(everything=True)
        with suppress(BrokerError):
            await self._lost_grants.put_back(self._broker, everything=True)
        if unsettled:
            with suppress(BrokerError):
                await self._take_turn(unsettled, {})


def _is_unknown(answer: object) -> bool:
    """Whether what was asked may have been done or not."""
    return isinstance(answer, BrokerUnavailableError)
