"""Permits of tasks with a `max_concurrency`, in plain containers; for ledgers whose memory is this process's."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from .ledger import Permit

#: Seconds for which a permit is reserved for the message that was woken for it; it may have died on its way.
RESERVED: Final = 5.0
#: Seconds for which a message that waits for a permit is remembered without asking again: more than the longest time
#: after which it does.
WAITING_KEPT: Final = 3 * 3600.0
#: Whose a permit is that is reserved for a message which was woken.
NOBODY: Final = ""

_Key = tuple[str, int]


class _TaskPermits:
    """The permits of one task: until when they are taken (by message and holder), and who waits for one."""

    __slots__ = ("line", "taken", "waiting")

    def __init__(self) -> None:
        self.taken: dict[tuple[_Key, str], float] = {}
        self.waiting: dict[_Key, tuple[float, float]] = {}  #: since when, and until when that is remembered
        self.line: list[tuple[float, _Key]] = []  #: a heap of those who were not woken; some have gone since

    def release_ended(self, now: float) -> None:
        """Release what was not renewed; who was woken and did not come is in the line again."""
        for each in [each for each, ends in self.taken.items() if ends <= now]:
            del self.taken[each]
            key, holder = each
            if holder == NOBODY and key in self.waiting:
                heapq.heappush(self.line, (self.waiting[key][0], key))


class Permits:
    """The holders of permits and those that wait, by task. `now` is monotonic time: all is in this process."""

    def __init__(self) -> None:
        self._tasks: dict[str, _TaskPermits] = {}

    def __len__(self) -> int:
        """How many have one or wait."""
        return sum(len(task.taken) + len(task.waiting) for task in self._tasks.values())

    def acquire(self, permit: Permit, holder: str, lease: float, now: float) -> int:
        """As `Ledger.acquire_permits`, for one."""
        task = self._tasks.setdefault(permit.name, _TaskPermits())
        task.release_ended(now)
        if permit.is_again:
            for each in [each for each in task.taken if each[0] == permit.key and each[1] != holder]:
                del task.taken[each]
        reserved = task.taken.pop((permit.key, NOBODY), None)
        if reserved is None and (permit.key, holder) not in task.taken and len(task.taken) >= permit.limit:
            return len(task.waiting) + (permit.key not in task.waiting)
        task.taken[permit.key, holder] = now + lease
        task.waiting.pop(permit.key, None)
        return 0

    def renew(self, permit: Permit, holder: str, lease: float, now: float) -> None:
        """As `Ledger.renew_permits`, for one."""
        task = self._tasks.get(permit.name)
        if task is not None and (permit.key, holder) in task.taken:
            task.taken[permit.key, holder] = now + lease

    def hand_over(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int], now: float
    ) -> list[Permit]:
        """As `Ledger.hand_over_permits`."""
        for permit in released:
            if (task := self._tasks.get(permit.name)) is not None:
                task.taken.pop((permit.key, holder), None)
                if holder == NOBODY:
                    task.waiting.pop(permit.key, None)
        for permit in waiting:
            task = self._tasks.setdefault(permit.name, _TaskPermits())
            if permit.key not in task.waiting:
                heapq.heappush(task.line, (permit.since, permit.key))
            task.waiting[permit.key] = permit.since, now + WAITING_KEPT
        woken = [permit for name, limit in limits.items() for permit in self._reserve(name, limit, now)]
        for name in {permit.name for permit in released} | limits.keys():
            unused = self._tasks.get(name)
            if unused is not None and not unused.taken and not unused.waiting:
                del self._tasks[name]
        return woken

    def _reserve(self, name: str, limit: int, now: float) -> list[Permit]:
        """Reserve the free permits of one task for those who waited longest."""
        task = self._tasks.get(name)
        if task is None:
            return []
        task.release_ended(now)
        woken: list[Permit] = []
        while task.line and len(task.taken) < limit:
            since, key = heapq.heappop(task.line)
            _, expires = task.waiting.get(key, (0.0, 0.0))
            if expires <= now:
                task.waiting.pop(key, None)
            elif (key, NOBODY) not in task.taken:
                task.taken[key, NOBODY] = now + RESERVED
                woken.append(Permit(key, name, limit, since))
        return woken
