"""The one seam by which a worker tells what happens in it: signals, handlers of task classes, tests, events, metrics.

Nobody is asked anything, and nobody does harm (P10): a call takes its time, and what it raises is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..canvas.outcome import Outcome
from ..commit import Finish
from ..signals import connected
from ..tasks.task import Task
from ..transport import Delivery
from .recent import RecentRuns, Timing
from .run import Run

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger("aiotq.task")

#: Seconds that hooks have when their run was cancelled: nobody will do it again (P6).
_LAST_WORDS: Final = 10.0

#: What a hook answers: nothing, or what the teller is to wait for.
Told = Awaitable[None] | None


class Observer:
    """Told what happens in a worker, by plain calls on its loop, which must not block; this one hears nothing.

    Those of a run are made in its context. Nobody waits for one that was added. Only the user's own hooks (receivers of
    signals, handlers of task classes) return something to wait for, since their documentation promises it.
    """

    #: What it calls, in the words of a log.
    calls: str = "observer"
    #: Whether it is told of each start and each end. One that only counts is told by `counted` alone, which costs less.
    hears_runs: bool = True

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

    def counted(self, run: Run, outcome: Outcome | None, finish: Finish | None, timing: Timing | None) -> None:
        """As `ended`, for one that does not hear runs; of a success whose value can't be kept `finish` says so.

        `timing` is what the worker's own counting found. None: it did not time this one, as one of many, or at all.
        """

    def broke(self, run: Run, error: Exception) -> Told:
        """This library itself failed on it."""

    def lost(self, deliveries: Collection[Delivery]) -> Told:
        """The leases of these are gone: other workers may run them."""

    def committed(self, count: int, seconds: float) -> Told:
        """The ends of `count` runs were written in one step, which took `seconds`."""


class Observers:
    """The observers of one worker: those that were added, `signals` if they have receivers, `handlers` of tasks."""

    def __init__(self, signals: Observer, handlers: Observer, recent: RecentRuns | None = None) -> None:
        self._added: tuple[Observer, ...] = ()
        self._hearing: tuple[Observer, ...] = ()  #: of those: who hears runs, and who counts them
        self._counting: tuple[Observer, ...] = ()
        self._recent = recent
        self._signals = signals
        self._handlers = handlers

    def add(self, observer: Observer) -> None:
        """Tell `observer` too, from now on."""
        self._have((*self._added, observer))

    def remove(self, observer: Observer) -> None:
        """Tell `observer` no more."""
        self._have(tuple(each for each in self._added if each is not observer))

    def _have(self, added: tuple[Observer, ...]) -> None:
        self._added = added
        self._hearing = tuple(each for each in added if each.hears_runs)
        self._counting = tuple(each for each in added if not each.hears_runs)

    def __bool__(self) -> bool:
        """Whether anybody hears of all that happens."""
        return bool(connected or self._added)

    def of(self, task: Task[..., Any] | None) -> bool:
        """Whether anybody hears of the runs of `task`."""
        return bool(connected or self._hearing or (task is not None and task.handlers))

    def count(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        """Count how `run` ended, for the worker's row and for those who count."""
        timing: Timing | None = None
        if self._recent is not None and outcome is not None and finish is not None:
            try:
                timing = self._recent.ended(run, outcome, finish)
            except Exception:  # whoever observes harms nothing
                logger.exception("counting the end of %s failed", _name(run.delivery))
        for each in self._counting:
            try:
                each.counted(run, outcome, finish, timing)
            except (Exception, SystemExit):  # the same
                _log(each, _name(run.delivery))

    async def tell(self, tell: Callable[[Observer], Told], what: str = "a worker's life") -> None:
        """Tell everybody what is about no run."""
        self.watch(tell, what)
        if connected:
            await _told(self._signals, tell, what)

    def watch(self, tell: Callable[[Observer], Told], what: str) -> None:
        """Tell those who were added, and no hooks."""
        for each in self._added:
            try:
                tell(each)
            except (Exception, SystemExit):  # whoever observes harms nothing
                _log(each, what)

    def tell_start(self, run: Run) -> Told:
        """Tell that the task of `run` is about to be called."""
        run.is_told = True
        for each in self._hearing:
            try:
                each.started(run)
            except (Exception, SystemExit):  # the same
                _log(each, _name(run.delivery))
        hooks = self._hooks(run.called)
        return _tell_start(hooks, run) if hooks else None

    def tell_end(self, run: Run, tell: Callable[[Observer], Told]) -> Told:
        """Tell how `run` ended."""
        for each in self._hearing:
            try:
                tell(each)
            except (Exception, SystemExit):  # the same
                _log(each, _name(run.delivery))
        hooks = self._hooks(run.called)
        return _tell_end(hooks, run, tell) if hooks else None

    def _hooks(self, task: Task[..., Any] | None) -> Sequence[Observer]:
        """Return those of the user's code that are waited for."""
        found = (self._handlers,) if task is not None and task.handlers else ()
        return (*found, self._signals) if connected else found


async def _tell_start(hooks: Sequence[Observer], run: Run) -> None:
    for each in hooks:
        await _told(each, lambda hook: hook.started(run), _name(run.delivery))


async def _tell_end(hooks: Sequence[Observer], run: Run, tell: Callable[[Observer], Told]) -> None:
    """Tell hooks. A cancellation cuts one short and goes no further: the end stands, and is committed."""
    task = asyncio.current_task()
    for each in hooks:
        was_cancelled = task is not None and task.cancelling() > 0
        try:
            async with asyncio.timeout(_LAST_WORDS if was_cancelled else None):
                await _told(each, tell, _name(run.delivery))
        except (asyncio.CancelledError, TimeoutError):
            logger.warning("Task %s: its %s were cancelled", _name(run.delivery), each.calls)


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
