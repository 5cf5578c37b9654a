"""One worker's hold on some queues of a Redis: reading from them, waiting, keeping what it has (P2, P4, P5)."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from ...core.aio import finish
from ...core.clock import Clock
from ...exceptions import OperationalError
from ...results.fleet import FleetRow
from ...transport.broker import FAIR_EVERY, Consumer, Delivery, QueueOrder, Turns
from .connection import RedisClient
from .fleet import packed_row
from .health import server_warnings
from .messages import CANCEL_FETCH, FETCH, RECLAIM, REMOVE_CONSUMER, RENEW, SETTLE, Junk, deliveries_of, place_of

logger = logging.getLogger("aiotq.transport.redis")

#: Seconds between looks of a consumer that waits: pushes make it unnecessary, faults make it useful.
_SAFETY_INTERVAL: Final = 2.5
#: Seconds over which consumers spread their looks at what is due: more than their distances to the server differ.
_SPREAD: Final = 0.005
#: Messages that one look for strays gives back at most; the next one goes on.
_RECLAIM_BATCH: Final = 500
#: Which servers were warned of what.
_warned: Final[set[tuple[str, str]]] = set()
#: Leases for which nobody counts as dead after a connection was lost.
_PATIENCE: Final = 0.6
#: Seconds that a cancelled read has to give back what it took.
_LAST_WORDS: Final = 1.0
#: Topics on the bus: there may be messages; something is due in so many milliseconds.
_WOKEN: Final = "woken"
_DUE: Final = "due"
#: Beyond all numbers of reads.
_BEYOND: Final = 2**53 - 1


class RedisConsumer(Consumer):
    """One worker's hold on some queues. Made and left by `RedisBroker.consumer`."""

    def __init__(
        self,
        client: RedisClient,
        name: str,
        queues: Sequence[str],
        *,
        lease: float,
        order: QueueOrder,
        clock: Clock,
        dead_letter_retention: int,
    ) -> None:
        self._client = client
        self._clock = clock
        self._lease = round(lease * 1000)
        self._retention = dead_letter_retention
        self._order = order
        self._turns = Turns({queue: queue for queue in queues}, order)
        #: All queues that were ever read: something of them may be held.
        self._known = tuple(self._turns.items)
        #: Unique even if `name` is not; the end tells others how long our leases are.
        self._name = f"{name}#{os.urandom(6).hex()}/{self._lease}"
        #: Its place among those who wait for news: what is before the slash is told.
        self._waiter = f"{client.name}/{os.urandom(4).hex()}"
        self._reads = 0
        self._numbers = 0
        self._lost: int | None = None  #: the read whose reply nobody got
        self._has_news = False
        self._changed = asyncio.Event()  #: set when news came, or `_due_at` is another one
        self._due_at = float("inf")  #: loop time of the next look at what is delayed
        self._strange: frozenset[bytes] = frozenset()
        self._stop_hearing: tuple[Callable[[], None], ...] = ()
        #: Whether any task was revoked, as the last read saw it.
        self.saw_revocations = True

    async def enter(self) -> None:
        bus = self._client.bus
        self._stop_hearing = (bus.hear(_WOKEN, self._woken, self._woken), bus.hear(_DUE, self._due_earlier))
        await self._warn()

    async def leave(self) -> None:
        for stop_hearing in self._stop_hearing:
            stop_hearing()
        self._client.blocking.release()
        try:
            await self._client.run(REMOVE_CONSUMER, [self._name, self._waiter, _BEYOND, self._known])
        except OperationalError as exc:
            logger.warning("can't hand back messages of %s, their leases will end: %s", self._name, exc)

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        try:
            return await self._receive(limit, suspect, wait)
        except asyncio.CancelledError:
            # At once: there may be no next read, and whoever stops goes on holding what it took (P6).
            with suppress(OperationalError, TimeoutError):
                await finish(self._give_up_read(), _LAST_WORDS)
            raise

    async def _receive(self, limit: int, suspect: bool, wait: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while limit > 0:
            self._has_news = False  # before looking, so that nothing is missed that comes in between
            self._due_at = float("inf")
            read_at = self._clock.monotonic()
            found, due, saw_revocations, strange = await self._fetch(limit, suspect, loop.time() < deadline)
            self.saw_revocations = bool(saw_revocations)
            self._report(frozenset(strange))
            if found:
                self._reads += 1
                self._turns.advance(each[0].decode() for each in found)
                deliveries = await self._sort_out(found, read_at)
                if deliveries:
                    return deliveries
                continue
            if due is not None:
                self._look_in(float(due) / 1000)
            if not await self._something(deadline):
                break
        return ()

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        """As the contract says; `row` of the fleet registry is written by the same script."""
        by_stream: dict[tuple[str, str], dict[str, Delivery]] = {}
        for delivery in held:
            queue, level, entry, _ = place_of(delivery)
            by_stream.setdefault((queue, level), {})[entry] = delivery
        arguments = [[queue, level, list(entries)] for (queue, level), entries in by_stream.items()]
        packed = packed_row(row) if row is not None else False
        *kept, complaint = self._client.blocking.run(RENEW, [self._name, arguments, packed])
        if complaint:
            logger.warning("the row in the fleet registry could not be written, trying again: %s", complaint.decode())
        return [
            delivery
            for entries, still_held in zip(by_stream.values(), map(frozenset[bytes], kept), strict=True)
            for entry, delivery in entries.items()
            if entry.encode() not in still_held
        ]

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        again = self._client.reconnected_at
        if (
            not dead
            and again is not None
            and asyncio.get_running_loop().time() < again + _PATIENCE * self._lease / 1000
        ):
            return 0  # others may have been cut off as we were: they are given time to renew what they hold
        count: int = await self._client.run(RECLAIM, [self._lease, _RECLAIM_BATCH, self._known, list(dead)])
        return count

    async def read_from(self, queues: Sequence[str]) -> None:
        await self._give_up_read()  # and nobody tells us of what comes to those we leave
        self._turns = Turns({queue: queue for queue in queues}, self._order)
        self._known = tuple(dict.fromkeys([*self._known, *queues]))

    async def _fetch(self, limit: int, suspect: bool, waits: bool) -> Sequence[Any]:
        """Take messages. Cut off, what was taken is given back before the next read."""
        if self._lost is not None:
            await self._give_up_read()
        self._numbers += 1
        upwards = self._reads % FAIR_EVERY == FAIR_EVERY - 1
        arguments = [
            *(self._name, self._numbers, self._waiter, limit, suspect, upwards, waits, self._lease),
            *(self._turns.items, self._order.is_strict),
        ]
        try:
            reply: Sequence[Any] = await self._client.run(FETCH, arguments)
        except BaseException:
            self._lost = self._numbers
            raise
        return reply

    async def _give_up_read(self) -> None:
        """Give back what the lost read took, if there is one, and have others told of what comes."""
        await self._client.run(CANCEL_FETCH, [self._name, self._lost or 0, self._lease, self._waiter, self._known])
        self._lost = None

    async def _sort_out(self, reads: Sequence[Any], read_at: float) -> list[Delivery]:
        """Return what can be read; what can't goes to the dead letters (P5)."""
        deliveries: list[Delivery] = []
        junk: list[Any] = []
        for each in (each for read in reads for each in deliveries_of(read, read_at)):
            if not isinstance(each, Junk):
                deliveries.append(each)
                continue
            text = "queue %s: entry %s is not a message, it becomes a dead letter: %s"
            logger.error(text, each.place[0], each.place[2], each.why)
            junk.append((each.place, "g", "malformed", each.why))
        if junk:
            number = self._numbers
            try:
                await self._client.run(SETTLE, [f"{self._name}:junk", number, self._retention, junk])
            except BaseException:
                self._lost = number  # all of this read is given back, and comes again
                raise
        return deliveries

    async def _something(self, deadline: float) -> bool:
        """Wait until there may be something; False when the deadline passed first."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + _SAFETY_INTERVAL * random.uniform(0.8, 1.2)
        while not self._has_news and (until := min(deadline, self._due_at, look_at)) > loop.time():
            self._changed.clear()
            timer = loop.call_at(until, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
        return loop.time() < deadline

    def _woken(self, _: bytes = b"") -> None:
        self._has_news = True
        self._changed.set()

    def _due_earlier(self, milliseconds: bytes) -> None:
        """Something is due before what we wait for."""
        self._look_in(float(milliseconds) / 1000)
        self._changed.set()

    def _look_in(self, seconds: float) -> None:
        """Look when something is due; not to the moment, or the worker nearest to the server gets it each time."""
        at = asyncio.get_running_loop().time() + seconds + random.uniform(0, _SPREAD)
        self._due_at = min(self._due_at, at)

    def _report(self, strange: frozenset[bytes]) -> None:
        """Say once which keys are no queues."""
        for key in strange - self._strange:
            logger.error(
                "key %s is not a stream, but a queue needs that key: its messages are refused, and none are read; "
                "delete or rename the key",
                key.decode("utf-8", "replace"),
            )
        self._strange = strange

    async def _warn(self) -> None:
        """Warn of settings of the server that don't go with a queue."""
        try:
            found = await server_warnings(self._client)
        except OperationalError as exc:
            logger.debug("can't read the server's settings: %s", exc)
            return
        for warning in found:
            self._warn_once(warning)

    def _warn_once(self, warning: str) -> None:
        """Warn, once in the life of this process."""
        shown = self._client.address.shown
        if (shown, warning) not in _warned:
            _warned.add((shown, warning))
            logger.warning("Redis at %s: its %s", shown, warning)
