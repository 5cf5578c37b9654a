"""From which ids on a consumer reads: those before were taken, and dead rows are not to be walked again and again.

What is given back takes a new id, so low ids never come back. But who got a low id may commit it late: so now and then
a read starts at the beginning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Final

#: Seconds for which what was taken is not below the floor yet: transactions last about so long.
_YOUNG: Final = 0.1
#: Seconds between reads from the beginning ...
_ALL_EVERY: Final = 1.0
#: ... or so many times what one took, if that is longer: at most a tenth of the time.
_SHARE: Final = 10.0
#: Seconds that a read from the beginning may take whenever it is wanted.
_QUICK: Final = 0.02


class Floors:
    """The floor of each queue and rank."""

    def __init__(self) -> None:
        self._floors: dict[tuple[str, int], int] = {}
        self._young: list[tuple[float, dict[tuple[str, int], int]]] = []
        self._next_whole = 0.0
        self._whole_since: float | None = None
        self._earliest = 0.0  #: before which no read is from the beginning, whatever was forgotten
        self._is_wanted = False  #: whether one is wanted,
        self._is_behind = False  #: and the last one was not

    def of(self, pairs: Sequence[tuple[str, int]]) -> list[int]:
        """Return the floors for a read that begins now."""
        now = time.monotonic()
        while self._young and self._young[0][0] <= now - _YOUNG:
            self._floors.update(self._young.pop(0)[1])
        if now >= self._next_whole:
            self._whole_since = now
            self._is_wanted = self._is_behind = False
            return [0] * len(pairs)
        self._is_behind = self._is_wanted
        return [self._floors.get(pair, 0) for pair in pairs]

    def note(self, rows: Sequence[Sequence[Any]]) -> None:
        """Note what the read took that was asked for last."""
        now = time.monotonic()
        if self._whole_since is not None:
            took = now - self._whole_since
            self._earliest = now + _SHARE * took if took > _QUICK else now
            self._next_whole = now + max(_ALL_EVERY, _SHARE * took)
            self._whole_since = None
        if rows:
            highest: dict[tuple[str, int], int] = {}
            for row in rows:
                pair = row[0], row[1]
                highest[pair] = max(highest.get(pair, 0), row[2])
            self._young.append((now, highest))

    def forget(self) -> None:
        """Read from the beginning next, or as soon as that takes no more than its share of the time."""
        self._next_whole = min(self._next_whole, self._earliest)
        self._is_wanted = True

    def seconds_to_whole(self) -> float:
        """Return in how many seconds a read from the beginning is due that was put off; infinite if none was."""
        return self._earliest - time.monotonic() if self._is_behind else math.inf
