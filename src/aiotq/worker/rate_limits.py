"""Rate limits that hold for all workers: a task over its limit gets a start, and waits for it in the broker (P4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..core.schedules import seconds_apart
from ..results import Booking
from ..tasks.limits import RateLimit, rate_limits_of
from ..tasks.task import Task
from ..transport import Delivery
from .limit_names import LimitNames

Book = Callable[[Sequence[Booking]], Awaitable[Sequence[float]]]


class Limiter:
    """Says which deliveries have to wait; asks the store only for tasks that have a limit."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], default: str | None, book: Book, names: LimitNames) -> None:
        self._tasks = tasks
        self._default = () if default is None else _plain(seconds_apart(default))
        self._book = book
        self._names = names
        self._limits: dict[str, tuple[RateLimit, ...]] = {}

    def limited(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose tasks have a limit."""
        return [each for each in deliveries if self._limits_of(each.message.task)]

    async def waits(self, limited: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Book starts for `limited`; return the seconds until each, by their leases.

        Under several limits one is booked after another, from the slowest on: a start that it has it keeps while it
        waits for the next.
        """
        rates = {delivery.lease: self._bookings(delivery) for delivery in limited}
        left, waits, place = [each for each in limited if rates[each.lease]], dict[int | str, float](), 0
        while left:
            answers = await self._book([rates[each.lease][place] for each in left])
            waits.update((each.lease, wait) for each, wait in zip(left, answers, strict=True))
            place += 1
            left = [each for each in left if waits[each.lease] <= 0 and place < len(rates[each.lease])]
        return waits

    def set_interval(self, name: str, interval: float | None) -> None:
        """Have starts of the task `name` so many seconds apart from now on; None: it has no limit."""
        self._limits[name] = _plain(interval)

    def _bookings(self, delivery: Delivery) -> Sequence[Booking]:
        """Return the bookings of a delivery; none of one that can't be read, which ends by that."""
        message = delivery.message
        task = self._tasks[message.task]
        named = [
            (name, limit)
            for limit in self._limits_of(task.name)
            if (name := self._names.name("rate", task, limit.name, limit.key, delivery)) is not None
        ]
        last = len(named) - 1
        return [
            Booking(
                message.key if place == last else (f"{message.id}#{place}", message.attempt),
                *(name, limit.interval, limit.burst, place < last),
            )
            for place, (name, limit) in enumerate(named)
        ]

    def _limits_of(self, name: str) -> tuple[RateLimit, ...]:
        if name in self._limits:
            return self._limits[name]
        task = self._tasks.get(name)
        if task is None:  # it may be registered later
            return ()
        declared = task.declared.rate_limit
        if declared is None:
            limits = self._default
        elif isinstance(declared, (str, int, float)):
            limits = _plain(seconds_apart(declared))
        else:
            limits = tuple(sorted(rate_limits_of(declared), key=lambda limit: -limit.interval))
        self._limits[name] = limits
        return limits


def _plain(interval: float | None) -> tuple[RateLimit, ...]:
    return () if interval is None else (RateLimit(1 / interval),)
