"""Cameras: looks at a cluster's state, again and again, to be written down somewhere (`aiotq events --camera`)."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import InvalidOption
from .state import State

if TYPE_CHECKING:
    from .events import Events

logger = logging.getLogger("aiotq.events")

#: Seconds that one shot may take.
_LONGEST: Final = 60.0


class Camera:
    """Looks at `state` every so often: a class of your own has `on_shutter`, as Celery's `Polaroid`.

        class DumpCamera(Camera):
            clear_after = True

            async def on_shutter(self, state: State) -> None:
                print("tasks:", len(state.tasks))

    `on_shutter` and `on_cleanup` may be plain functions, which must not block. With `clear_after` calls that have ended
    are forgotten after each look. An error in one look is logged, and the next comes all the same.
    """

    clear_after = False

    def __init__(self, state: State, *, frequency: float = 1.0, cleanup_frequency: float = 3600.0) -> None:
        for name, seconds in (("frequency", frequency), ("cleanup_frequency", cleanup_frequency)):
            if not 0 < seconds < math.inf:
                raise InvalidOption(f"camera: {name} must be seconds, more than 0, not {seconds!r}")
        self.state = state
        self.frequency = frequency
        self.cleanup_frequency = cleanup_frequency

    def on_shutter(self, state: State) -> Any:
        """Write down what is."""

    def on_cleanup(self) -> Any:
        """Clear up what was written down; every `cleanup_frequency` seconds."""

    async def shutter(self) -> None:
        """Look once."""
        await self._called("on_shutter", self.state)
        if self.clear_after:
            self.state.clear_tasks()

    async def run(self, events: Events, *, max_tasks: int | None = None) -> None:
        """Feed the state with what comes, and look at it, until cancelled; the last look is at the end.

        Raises:
            OperationalError: broker or store can't be reached.
        """
        if max_tasks is not None:
            self.state.max_tasks = max_tasks
        looking: list[asyncio.Task[None]] = []
        try:
            async with events.capture() as capture, asyncio.TaskGroup() as group:
                looking = [
                    group.create_task(self._again(self.frequency, self.shutter)),
                    group.create_task(self._again(self.cleanup_frequency, self._clean)),
                ]
                async for event in capture:
                    self.state.event(event)
                for each in looking:
                    each.cancel()
        finally:
            await self.shutter()

    async def _clean(self) -> None:
        await self._called("on_cleanup")

    async def _again(self, seconds: float, act: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            await act()

    async def _called(self, name: str, *args: Any) -> None:
        try:
            async with asyncio.timeout(_LONGEST):
                answer = getattr(self, name)(*args)
                if inspect.isawaitable(answer):
                    await answer
        except Exception:  # the user's code
            logger.exception("%s of camera %s failed", name, type(self).__name__)
