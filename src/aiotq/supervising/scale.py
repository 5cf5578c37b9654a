"""How many worker processes there are to be: one more while calls wait too long, one fewer when few of them work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..core.bounds import KEPT, Bounds
from .line import Load

#: Seconds between what a worker tells, and between looks at it.
LOOK: Final = 1.0
#: Seconds after a change within which the next worker is not started: the last one is to show what it changes.
SETTLED: Final = 5.0


class Scale:
    """Decides about the number of workers, which is between `bounds`."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._changed = self._loaded = float("-inf")  #: when it was changed, and when not all were quiet

    def look(self, now: float, loads: Sequence[Load | None]) -> int:
        """Return how many workers there are to be, from what each said last; None: it has said nothing yet."""
        count = len(loads)
        if self._loaded == float("-inf") or any(load is not Load.QUIET for load in loads):
            self._loaded = now
        wanted = min(max(count, self._bounds.least), self._bounds.most)
        if wanted == count:
            if Load.BEHIND in loads and None not in loads and now - self._changed >= SETTLED:
                wanted = min(count + 1, self._bounds.most)
            elif now - max(self._loaded, self._changed) >= KEPT:
                wanted = max(count - 1, self._bounds.least)
        if wanted != count:
            self._changed = now
        return wanted
