"""Permits of tasks with a `max_concurrency`: who finds none waits in the broker, and is woken when one is free (P4).

A permit is a worker's for a lease, renewed with those of its deliveries; so the permits of a dead worker are free when
its tasks start again elsewhere, and only time is lost with them (P1, P2). It is released after the commit of the run.
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
from ..results import Ledger, Permit
from ..results.fleet import FleetRow
from ..results.permits import NOBODY
from ..tasks.task import Task
from ..transport import Broker, Delivery

logger = logging.getLogger("aiotq.worker")

#: Permits that are released or waited for in one step at most.
_MOST_NEWS: Final = 500
#: Seconds between looks for permits of the dead, for which nobody wakes those who wait.
_LOOK: Final = 1.5
#: Seconds before one who waits asks without having been woken: should whoever was to wake it have died. Doubled each
#: time, so that many who wait cost nothing.
_FIRST_DOUBT: Final = 60.0
_LAST_DOUBT: Final = 3600.0
#: Where nobody can be woken, all ask again: after so many seconds, and more the more there are.
_SHORTEST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 60.0
_WAIT_FOR_EACH: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class ConcurrencyLimits:
    """The permits of one worker."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        ledger: Ledger,
        broker: Broker,
        clock: Clock,
        *,
        holder: str,
        lease: float,
    ) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._broker = broker
        self._clock = clock
        self._holder = holder
        self._lease = lease
        self._taken: dict[int | str, Permit] = {}  #: by the leases of their deliveries
        self._waiting: dict[int | str, Permit] = {}  #: of what is being handed back since there was none
        self._news: Batcher[tuple[Permit, bool]] = Batcher(
            max_items=_MOST_NEWS
        )  #: and whether one was released or is waited for
        self._complaint = WarnOnce(logger, "handing over the permits of tasks with max_concurrency failed")

    def __bool__(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._taken or self._waiting)

    def limited(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose tasks have permits, but for what is expired: that ends without one."""
        tasks, now = self._tasks, self._clock.time()
        return [
            each
            for each in deliveries
            if (task := tasks.get(each.message.task)) is not None
            and task.declared.max_concurrency is not None
            and (each.message.expires is None or each.message.expires > now)
        ]

    async def waits(self, limited: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Take permits for `limited`; return for those who get none the seconds to wait, by their leases."""
        now = self._clock.time()
        permits = [self._permit(delivery, now) for delivery in limited]
        try:
            waiting = await self._ledger.acquire_permits(permits, self._holder, self._lease)
        except asyncio.CancelledError:
            for permit in permits:  # it may have had them
                self._news.add((permit, True))
            raise
        waits: dict[int | str, float] = {}
        for delivery, permit, count in zip(limited, permits, waiting, strict=True):
            if count:
                waits[delivery.lease] = self._patience(delivery, count, now)
                self._waiting[delivery.lease] = permit
            else:
                self._taken[delivery.lease] = permit
        return waits

    def leave(self, delivery: Delivery) -> None:
        """Release the permit of `delivery`, if it has one; or let it be known that it waits in the broker now."""
        if (permit := self._taken.pop(delivery.lease, None)) is not None:
            self._news.add((permit, True))
        elif (permit := self._waiting.pop(delivery.lease, None)) is not None:
            self._news.add((permit, False))

    def renew(
        self, committer: Committer, held: Collection[Delivery], row: FleetRow | None = None
    ) -> Collection[Delivery]:
        """As `Committer.renew`, and for all permits too. Blocking: called by the heartbeat's thread."""
        lost = committer.renew(held, row)
        if permits := list(self._taken.values()):
            self._ledger.renew_permits(permits, self._holder, self._lease)
        return lost

    async def run(self) -> None:
        """Release what is to be released and wake who waits, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK * random.uniform(0.7, 1.3)):
                    await self._news.some()
            except TimeoutError:
                if limits := self._limits():
                    await self._until_done([], limits)
                continue
            news = await self._news.take()
            await self._until_done(news, {permit.name: permit.limit for permit, _ in news})

    async def drained(self) -> None:
        """Return when all that was released is free."""
        await self._news.drained()

    async def _pass_on(self, news: Sequence[tuple[Permit, bool]], limits: Mapping[str, int]) -> None:
        """Release and note who waits, and wake the first for what is free; one that has gone is passed over."""
        released = [permit for permit, is_released in news if is_released]
        waiting = [permit for permit, is_released in news if not is_released]
        if not self._broker.can_make_due_now:
            if news:
                await self._ledger.hand_over_permits(released, waiting, self._holder, {})
            return
        woken = await self._ledger.hand_over_permits(released, waiting, self._holder, limits)
        while woken:
            found = await self._broker.make_due_now([permit.key for permit in woken])
            gone = [permit for permit, is_there in zip(woken, found, strict=True) if not is_there]
            if not gone:
                return
            left = {permit.name: permit.limit for permit in gone}
            woken = await self._ledger.hand_over_permits(gone, (), NOBODY, left)

    async def _until_done(self, news: Sequence[tuple[Permit, bool]], limits: Mapping[str, int]) -> None:
        pause = 0.05
        while True:
            try:
                await self._pass_on(news, limits)
            except OperationalError as exc:
                self._complaint.make(exc)
            except Exception:  # a defect must not end the loop that others wait for
                logger.exception("handing over permits failed, trying again")
            else:
                self._complaint.withdraw()
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _permit(self, delivery: Delivery, now: float) -> Permit:
        message = delivery.message
        since = now if message.sent_at is None else message.sent_at
        limit = self._tasks[message.task].declared.max_concurrency or 1
        return Permit(message.key, message.task, limit, since, is_again=delivery.deaths > 0)

    def _limits(self) -> Mapping[str, int]:
        return {
            name: limit for name, task in self._tasks.items() if (limit := task.declared.max_concurrency) is not None
        }

    def _patience(self, delivery: Delivery, waiting: int, now: float) -> float:
        """Return the seconds after which one that got no permit asks again by itself."""
        if self._broker.can_make_due_now:
            wait = min(_FIRST_DOUBT * 2.0 ** min(delivery.returns, 10), _LAST_DOUBT)
        else:
            wait = min(_SHORTEST_WAIT + _WAIT_FOR_EACH * waiting, _LONGEST_WAIT)
        wait *= random.uniform(0.5, 1.5)  # who came together must not come back together
        expires = delivery.message.expires
        return wait if expires is None else max(min(wait, expires - now), 0.05)
