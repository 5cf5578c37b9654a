"""Grows and shrinks the slots of one worker: at once when all are taken, and slowly when few are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ..core.bounds import KEPT, Bounds
from ..tasks.options import RunsIn

#: Seconds between looks at what is taken.
_LOOK: Final = 1.0


class Places(Protocol):
    """The slots that are scaled."""

    @property
    def taken(self) -> int: ...
    @property
    def capacity(self) -> int: ...


def scaled(capacity: int, taken: int, bounds: Bounds, *, most_taken: int | None = None) -> int:
    """Return how many slots there are to be, of which `taken` are taken now.

    Twice as many when all are; half as many when never more than half were: `most_taken`, known when that was watched
    for long enough.
    """
    wanted = capacity
    if taken >= capacity:
        wanted = 2 * capacity
    elif most_taken is not None and most_taken <= capacity // 2:
        wanted = max(capacity // 2, most_taken)
    return min(max(wanted, bounds.least), bounds.most)


class Autoscaler:
    """Scales kinds of slots for as long as `run` lasts, once they have bounds; `bounds` are those for coroutines."""

    def __init__(
        self, slots: Mapping[RunsIn, Places], resize: Callable[[RunsIn, int], None], bounds: Bounds | None = None
    ) -> None:
        self._slots = slots
        self._resize = resize
        self._bounds: dict[RunsIn, Bounds] = {}
        self._watched: dict[RunsIn, tuple[float, int]] = {}  #: since when, and the most that were taken
        self._is_on = asyncio.Event()
        if bounds is not None:
            self.set("loop", bounds)

    def set(self, kind: RunsIn, bounds: Bounds) -> None:
        """Have between `bounds` slots of a kind from now on."""
        self._bounds[kind] = bounds
        self._is_on.set()

    async def run(self) -> None:
        """Scale until cancelled."""
        await self._is_on.wait()
        loop = asyncio.get_running_loop()
        while True:
            for kind, bounds in self._bounds.items():
                self._look(kind, bounds, loop.time())
            await asyncio.sleep(_LOOK)

    def _look(self, kind: RunsIn, bounds: Bounds, now: float) -> None:
        slots = self._slots[kind]
        since, most_taken = self._watched.get(kind, (now, 0))
        most_taken = max(most_taken, slots.taken)
        is_known = now - since >= KEPT
        wanted = scaled(slots.capacity, slots.taken, bounds, most_taken=most_taken if is_known else None)
        if wanted != slots.capacity:
            self._resize(kind, wanted)
        if is_known or wanted != slots.capacity:
            since, most_taken = now, slots.taken
        self._watched[kind] = since, most_taken
