"""The time, in one place that a test can replace.

Wall time (seconds since the epoch, UTC) goes on the wire; monotonic time measures waiting. They never meet in
one expression.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol


class Clock(Protocol):
    """What a service asks of time."""

    def time(self) -> float:
        """Wall time in seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()

#: Seconds that clocks may differ and count as one.
_SAME: Final = 0.1


class SharedClock:
    """Wall time by the clock that counts for all processes: that of their server, if they have one.

    What a message says of the time until which it may start goes by it, for its sender's clock and its worker's may
    differ.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead = 0.0  #: the seconds by which it is ahead of ours

    def time(self) -> float:
        """Wall time by the shared clock."""
        return self._clock.time() + self.ahead

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def compare(self, ask: Callable[[], Awaitable[float]]) -> None:
        """Set our clock beside the shared one, which `ask` reads."""
        before = self._clock.time()
        theirs = await ask()
        after = self._clock.time()
        ahead = theirs - (before + after) / 2
        self.ahead = ahead if abs(ahead) > max(_SAME, after - before) else 0.0
