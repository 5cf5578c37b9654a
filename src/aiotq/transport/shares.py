"""Fair shares: within one queue and priority, calls that say whose they are take turns by key.

A call's header says its key and its cost, which is 1 / weight. What waits by key is a **lane** beside the queue's
plain messages. A call gets a tag when it comes: the last tag of its key, or the tag of the first that waits if that is
more, and its cost. The lowest tag is next. So a key that sends much has tags far ahead, and what comes later stands
before them: after the n-th waiting call of a key has come, at most `1 + n * its cost / the other's cost` calls of each
other key are taken before it.

Source: Golestani, "A Self-Clocked Fair Queueing Scheme for Broadband Applications" (1994).
See `docs/decisions/0120-fair-shares.md`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from ..wire.shares import Share

T = TypeVar("T")

#: Keys that a lane remembers beyond twice what waits in it.
_SPARE: Final = 100


class Lane(Generic[T]):
    """What waits by key, of one queue and one priority, in this process."""

    __slots__ = ("_last", "_numbers", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, T]] = []
        self._last: dict[str, float] = {}  #: the last tag of each key; those up to the first that waits say nothing
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return (item for _, _, item in sorted(self._waiting, key=lambda each: each[:2]))

    def add(self, item: T, share: Share) -> None:
        key, cost = share
        first = self._waiting[0][0] if self._waiting else 0.0
        if not self._waiting:
            self._last.clear()
        elif len(self._last) > 2 * len(self._waiting) + _SPARE:
            self._last = {each: tag for each, tag in self._last.items() if tag > first}
        tag = self._last[key] = max(first, self._last.get(key, 0.0)) + cost
        heapq.heappush(self._waiting, (tag, next(self._numbers), item))

    def pop(self) -> T:
        """Take the next; there must be one."""
        return heapq.heappop(self._waiting)[2]
