"""Permits of tasks with a `max_concurrency`: who finds none waits in the broker, and is told when one is free (P4).

A seat is a worker's for a lease, renewed with those of its deliveries; so the seats of a dead worker are free when its
tasks start again elsewhere, and nothing but time is lost with them (P1, P2). It is left after the commit of the run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from ..commit import Committer
from ..core.aio import Batcher
from ..core.clock import Clock
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from ..results import Permit, ResultStore
from ..results.permits import NOBODY
from ..tasks.task import Task
from ..transport import Broker, Delivery

logger = logging.getLogger("aiotq.worker")

#: Permits that are left or sought in one step at most.
_MOST_NEWS: Final = 500
#: Seconds between looks for seats of the dead, for which nobody tells those who wait.
_LOOK: Final = 1.5
#: Seconds before one who waits asks without having been told: should whoever was to tell it have died. Doubled each
#: time, so that many who wait cost nothing.
_FIRST_DOUBT: Final = 60.0
_LAST_DOUBT: Final = 3600.0
#: Where nobody can be told, all ask again: after so many seconds, and more the more there are.
_SHORTEST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 60.0
_WAIT_FOR_EACH: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class ConcurrencyLimits:
    """The seats of one worker."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        store: ResultStore,
        broker: Broker,
        clock: Clock,
        *,
        holder: str,
        lease: float,
    ) -> None:
        self._tasks = tasks
        self._store = store
        self._broker = broker
        self._clock = clock
        self._holder = holder
        self._lease = lease
        self._taken: dict[int | str, Permit] = {}  #: by the leases of their deliveries
        self._sought: dict[int | str, Permit] = {}  #: for what is being handed back since there was none
        self._news: Batcher[tuple[Permit, bool]] = Batcher(
            max_items=_MOST_NEWS
        )  #: and whether one was left or is sought
        self._complaint = WarnOnce(logger, "looking after the seats of tasks with max_concurrency failed")

    def __bool__(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._taken or self._sought)

    def limited(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose tasks have seats, but for what is expired: that ends without one."""
        tasks, now = self._tasks, self._clock.time()
        return [
            each
            for each in deliveries
            if (task := tasks.get(each.message.task)) is not None
            and task.declared.max_concurrency is not None
            and (each.message.expires is None or each.message.expires > now)
        ]

    async def waits(self, limited: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Take seats for `limited`; return for those who get none the seconds to wait, by their leases."""
        now = self._clock.time()
        seats = [self._seat(delivery, now) for delivery in limited]
        try:
            waiting = await self._store.acquire_permits(seats, self._holder, self._lease)
        except asyncio.CancelledError:
            for seat in seats:  # it may have had them
                self._news.add((seat, True))
            raise
        waits: dict[int | str, float] = {}
        for delivery, seat, count in zip(limited, seats, waiting, strict=True):
            if count:
                waits[delivery.lease] = self._patience(delivery, count, now)
                self._sought[delivery.lease] = seat
            else:
                self._taken[delivery.lease] = seat
        return waits

    def leave(self, delivery: Delivery) -> None:
        """Free the seat of `delivery`, if it has one; or let it be known that it waits in the broker now."""
        if (seat := self._taken.pop(delivery.lease, None)) is not None:
            self._news.add((seat, True))
        elif (seat := self._sought.pop(delivery.lease, None)) is not None:
            self._news.add((seat, False))

    def renew(self, committer: Committer, held: Collection[Delivery]) -> Collection[Delivery]:
        """As `Committer.renew`, and for all seats too. Blocking: called by the heartbeat's thread."""
        lost = committer.renew(held)
        if seats := list(self._taken.values()):
            self._store.renew_permits(seats, self._holder, self._lease)
        return lost

    async def run(self) -> None:
        """Leave what is to be left and tell who waits, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK * random.uniform(0.7, 1.3)):
                    await self._news.some()
            except TimeoutError:
                if limits := self._limits():
                    await self._until_done([], limits)
                continue
            news = await self._news.take()
            await self._until_done(news, {seat.name: seat.limit for seat, _ in news})

    async def drained(self) -> None:
        """Return when all that was left is free."""
        await self._news.drained()

    async def _pass_on(self, news: Sequence[tuple[Permit, bool]], limits: Mapping[str, int]) -> None:
        """Say what was left and is sought, and tell those who wait of what is free; one who has gone is passed over."""
        left = [seat for seat, is_left in news if is_left]
        seeking = [seat for seat, is_left in news if not is_left]
        if not self._broker.can_make_due_now:
            if news:
                await self._store.hand_over_permits(left, seeking, self._holder, {})
            return
        told = await self._store.hand_over_permits(left, seeking, self._holder, limits)
        while told:
            found = await self._broker.make_due_now([seat.key for seat in told])
            gone = [seat for seat, is_there in zip(told, found, strict=True) if not is_there]
            if not gone:
                return
            told = await self._store.hand_over_permits(gone, (), NOBODY, {seat.name: seat.limit for seat in gone})

    async def _until_done(self, news: Sequence[tuple[Permit, bool]], limits: Mapping[str, int]) -> None:
        pause = 0.05
        while True:
            try:
                await self._pass_on(news, limits)
            except OperationalError as exc:
                self._complaint.make(exc)
            except Exception:  # a defect must not end the loop that others wait for
                logger.exception("looking after seats failed, trying again")
            else:
                self._complaint.withdraw()
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _seat(self, delivery: Delivery, now: float) -> Permit:
        message = delivery.message
        since = now if message.sent_at is None else message.sent_at
        limit = self._tasks[message.task].declared.max_concurrency or 1
        return Permit(message.key, message.task, limit, since)

    def _limits(self) -> Mapping[str, int]:
        return {
            name: limit for name, task in self._tasks.items() if (limit := task.declared.max_concurrency) is not None
        }

    def _patience(self, delivery: Delivery, waiting: int, now: float) -> float:
        """Return the seconds after which one that got no seat asks again by itself."""
        if self._broker.can_make_due_now:
            wait = min(_FIRST_DOUBT * 2.0 ** min(delivery.returns, 10), _LAST_DOUBT)
        else:
            wait = min(_SHORTEST_WAIT + _WAIT_FOR_EACH * waiting, _LONGEST_WAIT)
        wait *= random.uniform(0.5, 1.5)  # who came together must not come back together
        expires = delivery.message.expires
        return wait if expires is None else max(min(wait, expires - now), 0.05)
