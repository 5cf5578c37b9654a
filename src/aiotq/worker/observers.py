"""The one seam by which a worker tells what happens in it: signals, handlers of task classes, tests, events, metrics.

Nobody is asked anything, and nobody does harm (P10): a call takes its time, and what it raises is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..canvas.outcome import Outcome
from ..commit import Finish
from ..signals import connected
from ..tasks.task import Task
from ..transport import Delivery
from .run import Run

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger("aiotq.task")

#: Seconds that hooks have when their run was cancelled: nobody will do it again (P6).
_LAST_WORDS: Final = 10.0

#: What an observer answers: nothing, or what the teller is to wait for.
Told = Awaitable[None] | None


class Observer:
    """Told what happens in a worker, by plain calls on its loop, which must not block; this one hears nothing.

    Those of a run are made in its context. Only the user's own hooks (receivers of signals, handlers of task classes)
    return something to wait for, since their documentation promises it; whatever else observes returns None.
    """

    #: What it calls, in the words of a log.
    calls: str = "observer"

    def starting(self, worker: Worker) -> Told:
        """The worker begins to start."""

    def ready(self, worker: Worker) -> Told:
        """It takes tasks."""

    def stopping(self, worker: Worker, how: str) -> Told:
        """It takes no more; `how` is Warm, or Cold without grace time."""

    def stopped(self, worker: Worker) -> Told:
        """All is committed."""

    def received(self, deliveries: Sequence[Delivery]) -> Told:
        """The worker took these; their arguments are not decoded yet."""

    def handed_back(self, delivery: Delivery, delay: float) -> Told:
        """It was not started, and goes back to its queue for `delay` seconds."""

    def started(self, run: Run) -> Told:
        """Its task is about to be called, with `run.request`."""

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> Told:
        """It ended after `run.seconds`; `finish` is about to be committed. None: its lease was lost."""

    def broke(self, run: Run, error: Exception) -> Told:
        """This library itself failed on it."""


class Observers:
    """Those who are told: whoever was added, `signals` while anybody is connected, `handlers` of tasks with any."""

    def __init__(self, signals: Observer, handlers: Observer) -> None:
        self._added: tuple[Observer, ...] = ()
        self._signals = signals
        self._handlers = handlers

    def add(self, observer: Observer) -> None:
        """Tell `observer` too, from now on."""
        self._added = (*self._added, observer)

    def __bool__(self) -> bool:
        """Whether anybody hears of all that happens."""
        return bool(connected or self._added)

    def of(self, task: Task[..., Any] | None) -> Sequence[Observer]:
        """Return those who are told of the runs of `task`."""
        found = self._added
        if connected:
            found = (self._signals, *found)
        if task is not None and task.handlers:
            found = (self._handlers, *found)
        return found

    async def tell(self, tell: Callable[[Observer], Told], what: str = "a worker's life") -> None:
        """Tell everybody what is about no run."""
        for observer in self.of(None):
            await _told(observer, tell, what)

    def tell_now(self, tell: Callable[[Observer], Told], delivery: Delivery) -> None:
        """Tell those who were added, where nobody can be waited for."""
        for observer in self._added:
            try:
                tell(observer)
            except Exception:  # the user's code, or a plugin's
                _log(observer, _name(delivery))

    async def tell_start(self, run: Run) -> None:
        """Tell that the task of `run` is about to be called."""
        run.is_told = True
        for observer in self.of(run.called):
            await _told(observer, lambda each: each.started(run), _name(run.delivery))

    async def tell_end(self, run: Run, tell: Callable[[Observer], Told]) -> None:
        """Tell how `run` ended. A cancellation cuts it short and goes no further: the end stands, and is committed."""
        task = asyncio.current_task()
        for observer in self.of(run.called):
            was_cancelled = task is not None and task.cancelling() > 0
            try:
                async with asyncio.timeout(_LAST_WORDS if was_cancelled else None):
                    await _told(observer, tell, _name(run.delivery))
            except (asyncio.CancelledError, TimeoutError):
                logger.warning("Task %s: its %s were cancelled", _name(run.delivery), observer.calls)


async def _told(observer: Observer, tell: Callable[[Observer], Told], name: str) -> None:
    try:
        answer = tell(observer)
        if answer is not None:
            await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        _log(observer, name)
    except (Exception, SystemExit):  # whoever observes harms nothing
        _log(observer, name)


def _log(observer: Observer, name: str) -> None:
    logger.exception("%r failed when it was told of %s", observer, name)


def _name(delivery: Delivery) -> str:
    return f"{delivery.message.task}[{delivery.message.id}]"
