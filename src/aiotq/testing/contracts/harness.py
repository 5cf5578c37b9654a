"""What the contracts ask of an implementation: fresh state, connections to it, and time that passes.

A harness is entered once a test. Everything connected through it is left, newest first, when the test ends.
"""

from __future__ import annotations

import abc
import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

from ...backends.memory.bus import MemoryBus
from ...backends.memory.ledger import MemoryLedger
from ...backends.memory.records import MemoryRecords
from ...backends.memory.state import MemoryState
from ...control.bus import Bus
from ...core.clock import SYSTEM_CLOCK, Clock
from ...results import Ledger, Record, RecordStore
from ...results.pushed import PushedRecords

#: Seconds a fact may take to come true before its test fails.
PATIENCE: Final = 10.0


class JumpingClock:
    """A clock that stands still until a test moves it; sleepers wake when it jumps past them."""

    def __init__(self) -> None:
        self._now = 2_000_000_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), woken))
        if seconds <= 0:
            self.jump(0)
        await woken

    def jump(self, seconds: float) -> None:
        """Move the clock by `seconds`."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)


class Harness:
    """Time, and the lifetime of what a test connects."""

    def __init__(self, clock: JumpingClock | None = None) -> None:
        self.clock = clock
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stack.aclose()

    def now(self) -> float:
        """Wall time as the implementation sees it."""
        return self.clock.time() if self.clock is not None else time.time()

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, and whoever was woken by that run."""
        if self.clock is None:
            await asyncio.sleep(seconds)
        else:
            self.clock.jump(seconds)
            for _ in range(10):
                await asyncio.sleep(0)


@dataclass(frozen=True)
class Kept:
    """What one process has of records, ledger and bus."""

    records: RecordStore
    ledger: Ledger
    bus: Bus

    async def forget(self, ids: Sequence[str]) -> None:
        """Forget these tasks, as `AsyncResult.forget` does."""
        await self.ledger.forget(ids)
        await self.records.forget(ids)


class KeptHarness(Harness, abc.ABC):
    """One fresh place for records, with the ledger and the bus beside it."""

    @abc.abstractmethod
    def connected(self) -> AbstractAsyncContextManager[Kept]:
        """Enter a connection of its own, as another process would have."""

    async def connect(self) -> tuple[Kept, Pushes]:
        """Return a connection that lasts as long as the test, and what is pushed to it."""
        kept = await self.stack.enter_async_context(self.connected())
        return kept, Pushes(kept)


class StoreHarness(KeptHarness):
    """A store of records alone: `make` returns it as another process would have it, for the clock that it is given.

    Ledger and bus are this process's, as those of the broker would be. A store whose time is its server's says
    `has_own_time`: then what passes is real time.
    """

    def __init__(
        self,
        make: Callable[[Clock], RecordStore],
        *,
        has_own_time: bool = False,
        clock: JumpingClock | None = None,
    ) -> None:
        super().__init__(None if has_own_time else clock or JumpingClock())
        self._make = make
        self._beside = MemoryState(clock=self.clock or SYSTEM_CLOCK)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Kept]:
        store = self._make(self.clock or SYSTEM_CLOCK)
        async with in_memory(self._beside) as beside:
            if store.is_pushing:
                async with store:
                    yield Kept(store, beside.ledger, beside.bus)
            else:
                async with PushedRecords(store, beside.bus) as records:
                    yield Kept(records, beside.ledger, beside.bus)


@asynccontextmanager
async def in_memory(state: MemoryState) -> AsyncGenerator[Kept]:
    """Enter what one loop has of `state`."""
    bus = MemoryBus(state.hub)
    records = MemoryRecords(state, bus)
    async with bus, records, MemoryLedger(state, bus, records) as ledger:
        yield Kept(records, ledger, bus)


class Pushes:
    """What was pushed to a process, and `arrived` to wait for it."""

    def __init__(self, kept: Kept) -> None:
        self.records: list[Record] = []
        self.revoked: list[str] = []
        self._came = asyncio.Event()
        kept.records.on_push = self._pushed
        kept.ledger.on_revoked = self.revoked.extend
        kept.records.listening = True

    def _pushed(self, records: Sequence[Record]) -> None:
        self.records += records
        self._came.set()

    async def arrived(self, *wanted: tuple[str, str]) -> None:
        """Return when every (id, state) was pushed.

        Raises:
            AssertionError: they were not, for `PATIENCE` seconds.
        """
        missing = set(wanted)
        try:
            async with asyncio.timeout(PATIENCE):
                while missing := set(wanted) - {(record.id, record.state) for record in self.records}:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            came = [(record.id, record.state) for record in self.records]
            raise AssertionError(f"not pushed within {PATIENCE:g} s: {missing}; what came: {came}") from None
