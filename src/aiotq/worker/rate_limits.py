"""Rate limits that hold for all workers: a task over its limit gets a start, and waits for it in the broker (P4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..core.schedules import seconds_apart
from ..results import Booking
from ..tasks.task import Task
from ..transport import Delivery

Book = Callable[[Sequence[Booking]], Awaitable[Sequence[float]]]


class Limiter:
    """Says which deliveries have to wait; asks the store only for tasks that have a limit."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], default: str | None, book: Book) -> None:
        self._tasks = tasks
        self._default = seconds_apart(default) if default is not None else None
        self._book = book
        self._intervals: dict[str, float | None] = {}

    def limited(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose tasks have a limit."""
        return [each for each in deliveries if self._interval(each.message.task) is not None]

    async def waits(self, limited: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Book starts for `limited`; return the seconds until each, by their leases."""
        names = [delivery.message.task for delivery in limited]
        waits = await self._book(
            [
                Booking(delivery.message.key, name, self._interval(name) or 0.0)
                for delivery, name in zip(limited, names, strict=True)
            ]
        )
        return {delivery.lease: wait for delivery, wait in zip(limited, waits, strict=True)}

    def set_interval(self, name: str, interval: float | None) -> None:
        """Have starts of the task `name` so many seconds apart from now on; None: it has no limit."""
        self._intervals[name] = interval

    def _interval(self, name: str) -> float | None:
        if name in self._intervals:
            return self._intervals[name]
        task = self._tasks.get(name)
        if task is None:  # it may be registered later
            return None
        rate = task.declared.rate_limit
        interval = self._intervals[name] = self._default if rate is None else seconds_apart(rate)
        return interval
