"""One look at queues, workers and schedules for all who look: pages are made of it, and follow it.

Nothing is asked while nobody looks; however many look, the app is asked once in two seconds (P10).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from ...beat.manage import PeriodicTask
from ...control.fleet import FleetMember
from ...control.queries import Queries
from ...control.views import Overview, QueueView
from ...core.aio import start
from ...core.values import value
from ...exceptions import AioTQError

#: Seconds for which a look holds; the same while somebody follows, since there is a new one soon; between two looks
#: then; and that schedules have to be read.
_HOLDS: Final = 1.0
_FOLLOWED: Final = 4.0
_EVERY: Final = 2.0
_PATIENCE: Final = 5.0


@value
class Look:
    """How things stood at one moment; `problems` has why a part could not be read, by its name."""

    at: float = 0.0
    overview: Overview | None = None
    schedules: Sequence[PeriodicTask] = ()
    problems: Sequence[tuple[str, str]] = ()

    @property
    def queues(self) -> Sequence[QueueView]:
        return () if self.overview is None else self.overview.queues

    @property
    def members(self) -> Sequence[FleetMember]:
        return () if self.overview is None else self.overview.workers

    @property
    def workers(self) -> Sequence[FleetMember]:
        return [each for each in self.members if each.kind == "worker"]

    @property
    def ready(self) -> int:
        return sum(each.stats.ready for each in self.queues)

    @property
    def dead(self) -> int:
        return sum(each.stats.dead for each in self.queues)


class Watch:
    """Looks for all who look. `now` is the app's wall time."""

    def __init__(self, queries: Queries, now: Callable[[], float]) -> None:
        self._queries = queries
        self._now = now
        self._look = Look()
        self._looking = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._followers = 0
        self._work: asyncio.Task[None] | None = None
        self._is_ending = False

    async def look(self) -> Look:
        """Return how things stand, as of a second ago at most; what can't be read is as it was."""
        holds = _FOLLOWED if self._followers else _HOLDS
        async with self._looking:
            if not 0 <= self._now() - self._look.at <= holds:
                await self._refresh()
        return self._look

    def forget(self) -> None:
        """Have the next look be a new one: something was changed."""
        self._look = Look(0.0, self._look.overview, self._look.schedules)

    @asynccontextmanager
    async def following(self) -> AsyncGenerator[Callable[[], Awaitable[Look | None]], None]:
        """Yield what returns a look whenever there is a new one; None: those who follow are to go."""
        self._followers += 1
        if self._work is None or self._work.done():
            self._work = start(self._follow(), name="aiotq.dashboard", context=contextvars.Context())
        seen = -1.0

        async def moved() -> Look | None:
            nonlocal seen
            async with self._moved:
                await self._moved.wait_for(lambda: self._is_ending or self._look.at not in {seen, 0.0})
            seen = self._look.at
            return None if self._is_ending else self._look

        try:
            yield moved
        finally:
            self._followers -= 1
            if not self._followers:
                self._work.cancel()
                await asyncio.wait({self._work})

    async def send_away(self) -> None:
        """Have all who follow go: who serves them stops."""
        self._is_ending = True
        async with self._moved:
            self._moved.notify_all()

    async def _follow(self) -> None:
        while True:
            async with self._looking:
                await self._refresh()
            await asyncio.sleep(_EVERY)

    async def _refresh(self) -> None:
        problems: list[tuple[str, str]] = []
        schedules, view = self._look.schedules, await self._queries.overview()
        for note in view.notes:
            part, _, text = note.partition(": ")
            problems.append((part, text))
        try:
            async with asyncio.timeout(_PATIENCE):
                schedules = await self._queries.schedules()
        except TimeoutError:
            problems.append(("schedules", f"no answer in {_PATIENCE:g} s"))
        except AioTQError as exc:
            problems.append(("schedules", str(exc)))
        self._look = Look(self._now(), view, schedules, problems)
        async with self._moved:
            self._moved.notify_all()
