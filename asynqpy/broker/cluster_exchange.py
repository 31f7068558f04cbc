"""Commands to a cluster: each node gets its own in one pipeline, and all nodes at the same time.

Which node has which slot is asked once and then learned from redirections (``MOVED``, ``ASK``). A command that was
redirected has not been run, and goes on to where it was sent; nothing else is sent twice. What goes to a node that is
away fails by itself: an error is that command's answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, TypeAlias

from redis import exceptions as redis_errors
from redis.exceptions import RedisError

from asynqpy.broker.cluster_node import ClusterNode
from asynqpy.broker.exchange import Command, Told
from asynqpy.broker.redis_client import ClusterPlan
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.slots import SlotMap, slot_of, units

#: How often a command may be redirected: a slot that moves does it twice, a fail-over once.
_MOST_REDIRECTIONS = 5

#: Seconds between two questions who has which slot.
_MAP_AGAIN = 0.2

#: Nodes that are asked for it at once; the first good answer counts.
_ASKED_AT_ONCE = 3

#: Seconds that a node may be silent while another answers. One that is frozen or cut off is not to hold up what the
#: others have for as long as a single Redis may take; one that was only slow is back in a moment.
_LAG = 2.0

#: Seconds in which a node answers that does not stand still itself.
_PROMPT = 0.5

#: Seconds in which one that has stood still answers what it was asked before.
_MOMENT = 0.25

_FAILURES = (RedisError, OSError, TimeoutError)

#: Answers after which the map may be of yesterday.
_STALE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.AskError,
    OSError,
)

_NO_SLOTS = "CLUSTERDOWN no node has any slot"

_CLOSED = "the connection to the cluster is closed"

_Unit: TypeAlias = "tuple[Endpoint | None, range, bool]"
"""Where commands go, their places, and whether the node has to be told that it was ``ASK`` that sent them."""


class ClusterExchange:
    """An ``Exchange`` with all primaries of a cluster. All belongs to the event loop of the first command."""

    #: A script may be known to some nodes and not to others.
    answers_early = False

    def __init__(self, plan: ClusterPlan) -> None:
        self._plan = plan
        self._map = SlotMap()
        #: Grows whenever slots are found to be elsewhere.
        self.changes = 0
        self._nodes: dict[Endpoint, ClusterNode] = {}
        self._mapping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[Any]] = set()
        self._map_at = 0.0
        self._is_stale = True
        self._is_closed = False

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        """As ``Exchange.send``; raises only if no node tells who has which slot, and then nothing was sent.

        ``told`` hears of none. Callers who were answered node by node would come back node by node, and what they send
        next would no longer share its round trips.
        """
        await self._keep_map()
        replies: list[Any] = [None] * len(commands)
        left = [
            (self._owner(slot), places, False) for slot, places in units(commands) if len(places)
        ]
        for _ in range(_MOST_REDIRECTIONS + 1):
            if not left:
                break
            await self._send_units(left, commands, replies)
            sent, left = left, []
            for endpoint, places, _ in sent:
                if unit := self._redirected(endpoint, places, replies):
                    left.append(unit)
        if any(isinstance(reply, _STALE) for reply in replies):
            self._is_stale = True
        return replies

    def _owner(self, slot: int | None) -> Endpoint | None:
        if slot is not None:
            return self._map.owners[slot]
        # Any would do. All who ask take the same one, as long as it is there: so its clock is everybody's.
        for endpoint in self._map.primaries:
            if not self._is_away(endpoint):
                return endpoint
            self._nodes[endpoint].look_after()  # or nobody would learn that it is back
        return self._map.primaries[0]

    async def _send_units(
        self,
        left: Sequence[_Unit],
        commands: Sequence[Command],
        replies: list[Any],
    ) -> None:
        by_node: dict[Endpoint | None, list[_Unit]] = {}
        for unit in left:
            by_node.setdefault(unit[0], []).append(unit)
        shares = [_Share(*it, commands, replies) for it in by_node.items()]
        begun = []
        try:
            for share in shares:
                try:
                    share.begin(self.node(share.endpoint))
                except _FAILURES as error:
                    share.fail(error)
                else:
                    begun.append(share)
            await self._end_all(begun)
        finally:
            ending = [task for share in begun if (task := share.drop()) is not None]
            await self._cancel(ending)

    async def _cancel(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Does not wait for long: a cancellation may get lost in redis-py's handshake. Then it ends when that does."""
        for task in tasks:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=_MOMENT)

    async def _end_all(self, shares: Sequence[_Share]) -> None:
        """Wait for all, and for silent ones not as long as a single Redis may take, once others have answered."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        watching: list[asyncio.Task[None]] = []

        def watch() -> None:
            watching.append(asyncio.create_task(self._watch(shares, began), name="asynqpy:silent"))

        patience = min((it.patience for it in shares), default=_LAG)
        timer = loop.call_later(patience - _PROMPT, watch)
        try:
            for share in shares:
                await share.end()
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()

    async def _watch(self, shares: Sequence[_Share], began: float) -> None:
        """Give up those that are silent while others answer.

        While the others do not answer either, no silence counts; and whoever stood still with them, or with us, has a
        moment to catch up.
        """
        loop = asyncio.get_running_loop()
        while left := [share for share in shares if share.is_under_way]:
            others_answer = await self._others_answer([share.endpoint for share in left])
            if others_answer:
                await asyncio.sleep(_MOMENT)
            else:
                began = loop.time()
            left = [share for share in left if share.is_under_way]
            for share in left:
                if others_answer and share.silent_at(began) <= loop.time():
                    share.give_up()
            wait = min((it.silent_at(began) for it in left), default=0.0) - loop.time()
            await asyncio.sleep(max(wait, _MAP_AGAIN))

    def _redirected(
        self, endpoint: Endpoint | None, places: range, replies: Sequence[Any]
    ) -> _Unit | None:
        """Where a run of commands goes on to, if this node has redirected the one with a key; learns from it."""
        found = (replies[it] for it in places if isinstance(replies[it], redis_errors.AskError))
        error = next(found, None)
        if error is None or endpoint is None:
            return None
        # Without a host: it is the same.
        host = endpoint.host if error.host in ("", "?") else error.host
        target = self._plan.reached(Endpoint(host, error.port))
        is_asking = not isinstance(error, redis_errors.MovedError)  # a subclass in redis-py
        if not is_asking:
            self._learn(error.slot_id, target)
        return target, places, is_asking

    def _learn(self, slot: int, owner: Endpoint) -> None:
        if self._map.owners[slot] != owner:
            self._map = self._map.moved(slot, owner)
            self.changes += 1
            self._is_stale = True

    async def send_to(self, endpoint: Endpoint, commands: Sequence[Command]) -> list[Any]:
        """Send commands that are about one node to that node. Raises whatever redis-py raises."""
        try:
            return await self.node(endpoint).send(commands)
        except _FAILURES:
            self._is_stale = True
            raise

    async def primaries(self) -> Sequence[Endpoint]:
        """The nodes that hold slots."""
        await self._keep_map()
        return self._map.primaries

    async def owners(self) -> SlotMap:
        """Who has which slot. To be asked again when ``changes`` has grown."""
        await self._keep_map()
        return self._map

    def distrust(self) -> None:
        """Look again who has which slot, beside the next command."""
        self._is_stale = True

    async def all_nodes(self) -> list[Endpoint]:
        """All that are known and not known to be away, replicas too."""
        await self._keep_map()
        known = [*self._map.primaries, *self._map.replicas]
        return [it for it in known if not self._is_away(it)] or known

    def _is_away(self, endpoint: Endpoint) -> bool:
        return endpoint in self._nodes and self._nodes[endpoint].is_away

    def reaches(self, key: str) -> bool:
        owner = self._map.owners[slot_of(key)]
        return owner is not None and not self._is_away(owner)

    @property
    def is_alive(self) -> bool:
        return any(not self._is_away(it) for it in self._map.primaries)

    def node(self, endpoint: Endpoint | None) -> ClusterNode:
        """Raises redis-py's errors if there is none."""
        if endpoint is None:
            raise redis_errors.ClusterDownError("CLUSTERDOWN nobody has the slot")
        if self._is_closed:
            raise redis_errors.ConnectionError(_CLOSED)
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = ClusterNode(endpoint, self._plan.one_node(endpoint))
        return node

    async def _keep_map(self) -> None:
        """See that there is a map, and begin to renew it where it may be wrong; that goes on beside."""
        if not self._is_stale:
            return
        has_none = not self._map.primaries
        if self._mapping is None and (has_none or time.monotonic() >= self._map_at):
            self._mapping = asyncio.create_task(self._renew_map(), name="asynqpy:slots")
            self._mapping.add_done_callback(self._renewed)
        if has_none and self._mapping is not None:
            mapping = self._mapping
            await asyncio.wait([mapping])  # whose own cancel leaves it to the others
            if mapping.cancelled():
                raise redis_errors.ConnectionError(_CLOSED)
            mapping.result()

    def _renewed(self, mapping: asyncio.Task[None]) -> None:
        self._mapping = None
        self._map_at = time.monotonic() + _MAP_AGAIN
        if not mapping.cancelled():
            mapping.exception()  # who waits has it; for the others the old map still stands

    async def _renew_map(self) -> None:
        """Ask some nodes at a time until one knows."""
        known = {*self._map.primaries, *self._map.replicas, *self._plan.nodes}
        asked = sorted(known, key=lambda it: (self._is_away(it), random.random()))
        best: SlotMap | None = None
        failure: Exception | None = None
        while asked and (best is None or not best.is_whole):
            some, asked = asked[:_ASKED_AT_ONCE], asked[_ASKED_AT_ONCE:]
            for found in await self._maps_of(some, within=_LAG if asked else None):
                if isinstance(found, SlotMap):
                    best = found if best is None or found.is_whole else best
                else:
                    failure = failure or found
        if best is None:
            raise failure or redis_errors.ClusterDownError("CLUSTERDOWN no node is known")
        await self._take_map(best)

    async def _maps_of(
        self, endpoints: Sequence[Endpoint], within: float | None
    ) -> list[SlotMap | Exception]:
        """What these answer until one has told of all slots; who is slower, or than so many s, is not waited for."""
        loop = asyncio.get_running_loop()
        until = None if within is None else loop.time() + within
        asking = {asyncio.create_task(self._map_of(it)) for it in endpoints}
        found: list[SlotMap | Exception] = []
        try:
            while asking and not any(isinstance(it, SlotMap) and it.is_whole for it in found):
                left = None if until is None else until - loop.time()
                done, asking = await asyncio.wait(
                    asking, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                found += [it.result() for it in done]
        finally:
            await self._cancel(asking)
        return found

    async def _others_answer(self, silent: Collection[Endpoint | None]) -> bool:
        """Whether any of some other nodes does. It tells of the slots too, which may be why these are silent."""
        others = [it for it in self._map.primaries if it not in silent and not self._is_away(it)]
        random.shuffle(others)
        self._is_stale = True
        while others:
            some, others = others[:_ASKED_AT_ONCE], others[_ASKED_AT_ONCE:]
            found = await self._maps_of(some, within=_PROMPT)
            if any(isinstance(it, SlotMap) for it in found):
                return True
        return False

    async def _map_of(self, endpoint: Endpoint) -> SlotMap | Exception:
        try:
            (answer,) = await self.node(endpoint).send([("CLUSTER", "SLOTS")])
        except _FAILURES as error:
            return error
        if isinstance(answer, Exception):
            return answer
        slot_map = SlotMap.parse(answer, endpoint, self._plan.reached)
        return slot_map if slot_map.primaries else redis_errors.ClusterDownError(_NO_SLOTS)

    async def _take_map(self, new: SlotMap) -> None:
        if new != self._map:
            self._map = new
            self.changes += 1
        self._is_stale = False
        needed = {*new.primaries, *new.replicas, *self._plan.nodes}
        for endpoint, node in list(self._nodes.items()):
            # One that is busy is perhaps so new that whoever was asked has not heard of it.
            if endpoint not in needed and not node.is_busy:
                await self._nodes.pop(endpoint).close()

    async def forget_idle(self) -> None:
        self._is_stale = True
        for node in self._nodes.values():
            node.drop_idle()

    async def close(self) -> None:
        """What is under way ends with an error of redis-py's. All is closed also when it is cancelled."""
        self._is_closed = True
        ending: list[asyncio.Task[Any]] = [*self._ending]
        ending += [task for node in self._nodes.values() for task in node.hang_up()]
        if self._mapping is not None:
            self._mapping.cancel()
            ending.append(self._mapping)
        if ending:
            await asyncio.wait(ending)


class _Share:
    """What one node gets of a pipeline, and where the answers belong."""

    def __init__(
        self,
        endpoint: Endpoint | None,
        units: Sequence[_Unit],
        commands: Sequence[Command],
        replies: list[Any],
    ) -> None:
        self.endpoint = endpoint
        self._replies = replies
        self._words: list[Command] = []
        self._where: list[int | None] = []
        for _, places, is_asking in units:
            if is_asking:
                self._words.append(("ASKING",))
                self._where.append(None)
            self._words += commands[places.start : places.stop]
            self._where += places
        # WAIT holds the node's answer back for as long as it was told to.
        waits = [int(words[2]) / 1000 for words in self._words if words[0] == "WAIT"]
        self.patience = _LAG + sum(waits)
        self._node: ClusterNode
        self._answer: asyncio.Future[list[Any]] | None = None
        self._connecting: asyncio.Task[list[Any]] | None = None

    def begin(self, node: ClusterNode) -> None:
        """Send it: at once, unless the node has to be connected first."""
        self._node = node
        self._answer = node.begin(self._words)
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            sending = node.send(self._words)
            self._connecting = asyncio.create_task(sending, name=f"asynqpy:to:{node.endpoint}")
            self._connecting.add_done_callback(partial(_hand_on, self._answer))

    async def end(self) -> None:
        """Put the answers where they belong, or the error of the node."""
        assert self._answer is not None
        try:
            answers = await self._answer
        except _FAILURES as error:
            self.fail(error)
        else:
            self._put(answers)

    def fail(self, error: Exception) -> None:
        self._put([error] * len(self._words))

    def _put(self, answers: Sequence[Any]) -> None:
        for place, answer in zip(self._where, answers, strict=True):
            if place is not None:
                self._replies[place] = answer

    @property
    def is_under_way(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def silent_at(self, since: float) -> float:
        """When the node will have been silent for too long since then, if nothing comes."""
        return max(since, self._node.heard_at) + self.patience

    def give_up(self) -> None:
        """Wait no longer: the node is away."""
        assert self._answer is not None
        text = f"no answer for {self.patience:g} s, though other nodes of the cluster answer"
        error = redis_errors.TimeoutError(text)
        self._node.fell_silent(error)
        self._answer.set_exception(error)
        if self._connecting is not None:
            self._connecting.cancel()

    def drop(self) -> asyncio.Task[list[Any]] | None:
        """What has not come by now is of no use. The task that is returned is to be cancelled."""
        if self._answer is not None and not self._answer.cancel() and not self._answer.cancelled():
            self._answer.exception()  # has been looked at, as far as asyncio is concerned
        is_over = self._connecting is None or self._connecting.done()
        return None if is_over else self._connecting


def _hand_on(answer: asyncio.Future[list[Any]], sending: asyncio.Task[list[Any]]) -> None:
    error = asyncio.CancelledError() if sending.cancelled() else sending.exception()
    if answer.done():
        return
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(sending.result())
