"""What is known here of others who hold claims: which of them have died, and what came here though it is theirs."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Seconds within which it is known here that a process on this machine has ended.
_MOMENT: Final = 0.3
#: Holders that are remembered as dead, and messages that others hold.
_MOST_DEAD: Final = 100
_MOST_HELD: Final = 1_000


class OtherHolders:
    """Other workers, as far as they are seen from here."""

    def __init__(self) -> None:
        #: Holders whose processes are gone: their claims have ended.
        self.dead: deque[str] = deque(maxlen=_MOST_DEAD)
        self._came_before: deque[tuple[str, int]] = deque(maxlen=_MOST_HELD)

    def until(self, key: tuple[str, int], now: float, ends: float) -> float:
        """Return when a message is to come again whose claim another one has until `ends`.

        Soon, the first time: it may have come because its holder died, which is known here in a moment.
        """
        if key in self._came_before:
            return ends
        self._came_before.append(key)
        return min(ends, now + _MOMENT)
