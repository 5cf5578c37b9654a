"""One look at queues, workers and schedules for all who look: pages are made of it, and follow it.

Nothing is asked while nobody looks; however many look, the app is asked once in two seconds (P10). A page shows what is
known at once: no answer of a worker is waited for.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from ...beat.manage import PeriodicTask
from ...control.fleet import FleetMember
from ...control.queries import Queries
from ...control.views import LiveCalls, Overview, QueueView, Stacks
from ...core.aio import start
from ...core.values import replace, value
from ...exceptions import AioTQError

#: Seconds after which a look is taken again, beside the page that shows it; the same while somebody follows, since
#: there is a new one soon; between two looks then; and after which a page waits for a new one.
_HOLDS: Final = 1.0
_FOLLOWED: Final = 4.0
_EVERY: Final = 2.0
_OLD: Final = 10.0
#: Seconds for which stacks are shown.
_STACKS_HOLD: Final = 30.0

#: Before any worker answered.
_ASKED: Final = LiveCalls(notes=("the workers are being asked what they run: it is here in a moment",))
#: Runs something beside whoever begins it, until it ends or the app disconnects.
Beside = Callable[[Coroutine[Any, Any, None], str], Awaitable[asyncio.Task[None]]]


@value
class Look:
    """How things stood at one moment; `problems` has why a part could not be read, by its name."""

    at: float = 0.0
    overview: Overview | None = None
    problems: Sequence[tuple[str, str]] = ()

    @property
    def queues(self) -> Sequence[QueueView]:
        return () if self.overview is None else self.overview.queues

    @property
    def schedules(self) -> Sequence[PeriodicTask]:
        return () if self.overview is None else self.overview.schedules

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
    """Looks for all who look. `now` is the app's wall time; what goes on beside a page is begun by `beside`.

    No worker is waited for: a look has what they said last. They are asked beside it, and whoever follows is told of a
    look with their answers.
    """

    def __init__(self, queries: Queries, now: Callable[[], float], beside: Beside) -> None:
        self._queries = queries
        self._now = now
        self._beside = beside
        self._look = Look()
        self._live = LiveCalls()
        self._answered = 0.0  #: when they were
        self._looking = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._followers = 0
        self._work: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._digging: asyncio.Task[None] | None = None
        self._stacks: dict[str | None, Stacks] = {}
        self._is_ending = False

    async def look(self) -> Look:
        """Return how things stand, as it is known; what is newer is read beside it. What is old is waited for."""
        holds = _FOLLOWED if self._followers else _HOLDS
        if not 0 <= self._now() - self._look.at <= _OLD:
            async with self._looking:
                if not 0 <= self._now() - self._look.at <= _OLD:
                    await self._refresh()
        elif self._now() - self._look.at > holds and _is_over(self._renewing):
            self._renewing = await self._beside(self._renew(), "aiotq.dashboard.look")
        await self.live()
        return self._look

    async def live(self) -> LiveCalls:
        """Return what workers said lately that they run, and have them asked again."""
        age = self._now() - self._answered
        if not 0 <= age <= _HOLDS and _is_over(self._asking):
            self._asking = await self._beside(self._ask(), "aiotq.dashboard.workers")
        return self._live if 0 <= age <= _OLD else _ASKED

    async def stacks(self, worker: str | None) -> Stacks | None:
        """Return where everything stood when `worker`, or all, were asked lately; None: they are being asked."""
        known = self._stacks.get(worker)
        if known is not None and 0 <= self._now() - known.at <= _STACKS_HOLD:
            return known
        if _is_over(self._digging):
            self._digging = await self._beside(self._dig(worker), "aiotq.dashboard.stacks")
        return None

    def forget(self) -> None:
        """Have the next look be a new one: something was changed."""
        self._look = replace(self._look, at=0.0)
        self._answered = min(self._answered, self._now() - _HOLDS)

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
            await self._renew()
            await self.live()
            await asyncio.sleep(_EVERY)

    async def _renew(self) -> None:
        async with self._looking:
            await self._refresh()

    async def _ask(self) -> None:
        try:
            self._live = await self._queries.live()
        except AioTQError as exc:
            self._live = LiveCalls(notes=(f"workers can't be asked what they run: {exc}",), is_known=True)
        self._answered = self._now()
        await self._renew()

    async def _dig(self, worker: str | None) -> None:
        try:
            found = await self._queries.stacks(worker)
        except AioTQError as exc:
            found = Stacks(self._now(), (), (), str(exc))
        self._stacks = {worker: found}  # of those that were asked last: they are large
        await self._renew()

    async def _refresh(self) -> None:
        view = await self._queries.overview(live=self._live if self._now() - self._answered <= _OLD else _ASKED)
        problems = [(part, text) for part, _, text in (note.partition(": ") for note in view.notes)]
        self._look = Look(self._now(), view, problems)
        async with self._moved:
            self._moved.notify_all()


def _is_over(work: asyncio.Task[None] | None) -> bool:
    return work is None or work.done()
