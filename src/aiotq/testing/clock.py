"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from contextlib import suppress
from typing import Final

#: Seconds within which two times are the same: less than a microsecond, more than sums of such floats may be off by.
SAME: Final = 5e-7


class SteppingClock:
    """Wall time moves only by `move_to`; monotonic time is real, since leases are kept by threads that really run."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), loop, woken))
        self.move_to(self._now)
        await woken

    def move_to(self, now: float) -> None:
        """Set the clock to `now`, unless it is later already; sleepers that are due wake."""
        with self._lock:
            self._now = max(self._now, now)
            while self._sleepers and self._sleepers[0][0] <= self._now + SAME:
                _, _, loop, woken = heapq.heappop(self._sleepers)
                with suppress(RuntimeError):  # that loop is closed: nobody sleeps there any more
                    loop.call_soon_threadsafe(_wake, woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
