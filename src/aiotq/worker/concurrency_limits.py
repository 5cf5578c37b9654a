"""Permits of runs of which only so many are under way: who finds none waits in the broker, and is woken when there is
one (P4). A task with a `max_concurrency` has them, and a unique call: of its key there is one.

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
from ..results.keys import EXCLUSIVE, key_of
from ..results.permits import NOBODY
from ..tasks.limits import limits_of
from ..tasks.task import Task
from ..transport import Broker, Delivery
from .limit_names import LimitNames

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
#: Limits by key for which something has waited, and for whose dead holders the timer looks.
_MOST_REMEMBERED: Final = 1000


def _exclusive(delivery: Delivery) -> str | None:
    """Return the name of the key of which only one call runs at a time, if this one has such a key."""
    if delivery.message.headers is None or (key := key_of(delivery.message)) is None:
        return None
    return key.name if key.mode in EXCLUSIVE else None


class ConcurrencyLimits:
    """The permits of one worker."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        ledger: Ledger,
        broker: Broker,
        clock: Clock,
        names: LimitNames,
        *,
        holder: str,
        lease: float,
    ) -> None:
        self._names = names
        self._tasks = tasks
        self._ledger = ledger
        self._broker = broker
        self._clock = clock
        self._holder = holder
        self._lease = lease
        self._taken: dict[int | str, Sequence[Permit]] = {}  #: by the leases of their deliveries
        self._waiting: dict[int | str, Permit] = {}  #: of what is being handed back since there was none
        #: Limits by key for which something has waited here lately: with their holders dead, nobody else may look.
        self._waited_for: dict[str, int] = {}
        self._tasks_seen = -1
        self._are_needed = False
        self._news: Batcher[tuple[Permit, bool]] = Batcher(
            max_items=_MOST_NEWS
        )  #: and whether one was released or is waited for
        self._complaint = WarnOnce(logger, "handing over the permits of tasks with max_concurrency failed")

    def __bool__(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._taken or self._waiting)

    @property
    def are_needed(self) -> bool:
        """Whether any task has a limit."""
        if len(self._tasks) != self._tasks_seen:
            self._tasks_seen = len(self._tasks)
            self._are_needed = any(task.declared.max_concurrency is not None for task in self._tasks.values())
        return self._are_needed

    def limited(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those that need permits, but for what is expired: that ends without one."""
        tasks, now = self._tasks, self._clock.time()
        return [
            each
            for each in deliveries
            if (task := tasks.get(each.message.task)) is not None
            and (task.declared.max_concurrency is not None or _exclusive(each) is not None)
            and (each.message.expires is None or each.message.expires > now)
        ]

    async def waits(self, limited: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Take permits for `limited`; return for those who get none the seconds to wait, by their leases.

        Who needs several takes one after another, and has all or none.
        """
        now = self._clock.time()
        wanted = {delivery.lease: permits for delivery in limited if (permits := self._permits(delivery, now))}
        left, waits, place = [each for each in limited if each.lease in wanted], dict[int | str, float](), 0
        while left:
            permits = [wanted[delivery.lease][place] for delivery in left]
            try:
                waiting = await self._ledger.acquire_permits(permits, self._holder, self._lease)
            except asyncio.CancelledError:
                for delivery in left:  # it may have had them
                    self._release(wanted[delivery.lease][: place + 1])
                raise
            for delivery, permit, count in zip(left, permits, waiting, strict=True):
                if count:
                    waits[delivery.lease] = self._patience(delivery, permit, count, now)
                    self._waiting[delivery.lease] = permit
                    self._release(wanted[delivery.lease][:place])
                else:
                    self._taken[delivery.lease] = wanted[delivery.lease][: place + 1]
            place += 1
            left = [each for each in left if each.lease not in waits and place < len(wanted[each.lease])]
        for lease in waits:
            self._taken.pop(lease, None)
        return waits

    def held(self, delivery: Delivery, name: str) -> None:
        """Have `delivery`, which is to be handed back, wait for what nobody has until it is let go under `name`."""
        message = delivery.message
        since = self._clock.time() if message.sent_at is None else message.sent_at
        self._waiting[delivery.lease] = Permit(message.key, name, 0, since)

    def leave(self, delivery: Delivery) -> None:
        """Release the permits of `delivery`, if it has some; or let it be known that it waits in the broker now."""
        if (permits := self._taken.pop(delivery.lease, None)) is not None:
            self._release(permits)
        elif (permit := self._waiting.pop(delivery.lease, None)) is not None:
            if permit.limit and permit.name not in self._tasks:
                self._remember(permit)
            self._news.add((permit, False))

    def _release(self, permits: Sequence[Permit]) -> None:
        for permit in permits:
            self._news.add((permit, True))

    def _remember(self, permit: Permit) -> None:
        """Have the timer look for permits of this key, too."""
        self._waited_for.pop(permit.name, None)
        self._waited_for[permit.name] = permit.limit
        if len(self._waited_for) > _MOST_REMEMBERED:
            del self._waited_for[next(iter(self._waited_for))]

    def renew(
        self, committer: Committer, held: Collection[Delivery], row: FleetRow | None = None
    ) -> Collection[Delivery]:
        """As `Committer.renew`, and for all permits too. Blocking: called by the heartbeat's thread."""
        lost = committer.renew(held, row)
        if permits := [permit for taken in list(self._taken.values()) for permit in taken]:
            self._ledger.renew_permits(permits, self._holder, self._lease)
        return lost

    async def run(self) -> None:
        """Release what is to be released and wake who waits, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK * random.uniform(0.7, 1.3)):
                    await self._news.some()
            except TimeoutError:
                if limits := {**self._limits(), **self._waited_for}:
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

    def _permits(self, delivery: Delivery, now: float) -> Sequence[Permit]:
        """Return what a delivery needs: that of its key first, of which there is one; nothing if it can't be read."""
        message = delivery.message
        since = now if message.sent_at is None else message.sent_at
        wanted = [] if (name := _exclusive(delivery)) is None else [(name, 1)]
        task = self._tasks[message.task]
        wanted += [
            (name, limit.most)
            for limit in limits_of(task.declared.max_concurrency)
            if (name := self._names.name("limit", task, limit.name, limit.key, delivery)) is not None
        ]
        return [Permit(message.key, name, limit, since, is_again=delivery.deaths > 0) for name, limit in wanted]

    def _limits(self) -> Mapping[str, int]:
        return {
            name: limit.most
            for name, task in self._tasks.items()
            if task.declared.max_concurrency is not None
            for limit in limits_of(task.declared.max_concurrency)
            if limit.key is None and limit.name is None
        }

    def _patience(self, delivery: Delivery, permit: Permit, waiting: int, now: float) -> float:
        """Return the seconds after which one that got no permit asks again by itself.

        For a key that a dead worker alone knew of nobody looks: who waits for that asks after a lease.
        """
        if self._broker.can_make_due_now:
            first = _FIRST_DOUBT if permit.name in self._tasks else self._lease
            wait = min(first * 2.0 ** min(delivery.returns, 10), _LAST_DOUBT)
        else:
            wait = min(_SHORTEST_WAIT + _WAIT_FOR_EACH * waiting, _LONGEST_WAIT)
        wait *= random.uniform(0.5, 1.5)  # who came together must not come back together
        expires = delivery.message.expires
        return wait if expires is None else max(min(wait, expires - now), 0.05)
