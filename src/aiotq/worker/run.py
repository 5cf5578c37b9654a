"""One run of one delivery: its slot, and why it was cancelled if it was."""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ..canvas.links import NO_LINKS
from ..commit import Finish
from ..exceptions import WorkerLostError
from ..tasks.options import RunsIn
from ..tasks.request import Request
from ..tasks.task import Task
from ..transport import Delivery

if TYPE_CHECKING:
    from .transactions import Transaction

#: Seconds for which a delivery may wait in the worker for a slot of its kind, held back from other workers.
_WORTH_WAITING: Final = 0.25
_MOST_WAITING: Final = 100
#: How much of what is known of a kind's duration each run replaces.
_LEARNING: Final = 0.2
#: Seconds that a cancelled coroutine has for its cleanup; then it is cancelled again, since it may have swallowed it.
CLEANUP: Final = 3.0


class Cancelled(enum.Enum):
    """Why we cancelled a run."""

    STOPPING = "the worker stops"
    LEASE_LOST = "its lease was lost"
    REVOKED = "it was revoked"
    TIME_LIMIT = "its time limit passed"


class Slots:
    """Places for runs of one kind."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._seconds: float | None = None  # what a run takes, by the last ones
        self._returning: deque[Run] = deque()

    @property
    def free(self) -> int:
        return self.capacity - self.taken - len(self._returning)

    @property
    def room(self) -> int:
        """How many deliveries may wait for these slots: one a slot, or what is done in `_WORTH_WAITING` seconds."""
        seconds = self._seconds
        if not seconds or seconds >= _WORTH_WAITING:
            return self.capacity
        return min(self.capacity * int(_WORTH_WAITING / seconds), _MOST_WAITING)

    def took(self, seconds: float) -> None:
        """Learn how long a run took."""
        known = self._seconds
        self._seconds = seconds if known is None else known + (seconds - known) * _LEARNING

    def give_back(self) -> None:
        """Free one place; a run that wants to go on has it before any new one."""
        self.taken -= 1
        self.let_go_on()

    def let_go_on(self) -> None:
        """Give free places to runs that want to go on."""
        while self._returning and self.taken < self.capacity:
            self.taken += 1
            self._returning.popleft().granted()

    def ask(self, run: Run) -> None:
        """Have `run.granted` called when there is a place to go on in: now, or when its turn comes."""
        if self.taken < self.capacity and not self._returning:
            self.taken += 1
            run.granted()
        else:
            self._returning.append(run)

    def withdraw(self, run: Run) -> None:
        """Forget that `run` asked."""
        if run in self._returning:
            self._returning.remove(run)


class Run:
    """A delivery that occupies a slot. As a `Slot` it lends it while its task waits for another's result."""

    __slots__ = (
        "_again",
        "_loop",
        "_on_freed",
        "_place",
        "_waits",
        "called",
        "cancellations",
        "cancelled_for",
        "committed",
        "delivery",
        "holds_slot",
        "is_ending",
        "is_over",
        "is_settled",
        "is_started",
        "is_told",
        "kind",
        "links",
        "request",
        "sent_arguments",
        "slots",
        "started_at",
        "task",
        "time_limit",
        "transaction",
        "waited",
    )

    def __init__(self, delivery: Delivery, kind: RunsIn, slots: Slots, on_freed: Callable[[RunsIn], None]) -> None:
        self.delivery = delivery
        self.kind: RunsIn = kind
        self.slots = slots
        self.task: asyncio.Task[None] | None = None
        self.called: Task[..., Any] | None = None  #: the task, once it is looked up
        self.request: Request | None = None  #: once the body is read
        #: Its arguments as they were sent, if the task gets them as its annotations say.
        self.sent_arguments: tuple[Sequence[Any], Mapping[str, Any]] | None = None
        self.links = NO_LINKS  #: what follows it, as far as its body was read
        self.time_limit: float | None = None  #: seconds, while one is running
        self.is_ending = False  #: its end is being committed with its transaction, which says if its lease was lost
        self.committed: Finish | None = None  #: its end, if that was committed with its transaction
        self.transaction: Transaction | None = None  #: of a transactional task, until its outcome is known
        self.cancelled_for: Cancelled | None = None
        self.cancellations = 0  #: how often its task was cancelled
        self._again: asyncio.TimerHandle | None = None
        self.started_at = 0.0
        self.is_started = False
        self.is_told = False  #: observers heard that it began
        self.holds_slot = True
        self.is_settled = False  #: acknowledged before it ran (`acks_late=False`)
        self._loop = asyncio.get_running_loop()
        self.waited: list[str] = []  #: ids of the calls whose results it waits for
        self._waits = 0  # a task may wait for several results at once: the slot is lent until the last is there
        self._place: asyncio.Future[None] | None = None  # asked for, and not granted yet
        self.is_over = False  #: what the task left behind may still wait, and has no slot to lend or to take
        self._on_freed = on_freed
        slots.taken += 1

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.perf_counter() - self.started_at

    def end(self) -> None:
        """Free the slot for good."""
        self.is_over = True
        if self._again is not None:
            self._again.cancel()
        self.task = None  # whose context knows this run: a cycle less for the collector, and what it held is free now
        self.slots.withdraw(self)
        self._go_on()
        self._free()

    def lend(self, *ids: str) -> None:
        """Let another task run here while this one waits for the results of `ids`; from any thread, as what follows."""
        self._in_its_loop(self._lend, ids)

    async def take_back(self, *ids: str) -> None:
        """Wait for a place to go on."""
        if self._is_its_loop():
            self._returned(ids)
            await self._wait_for_place()
        else:
            await self._take_back_from_elsewhere(ids)
        if self.is_over and self.cancelled_for is Cancelled.STOPPING:
            raise WorkerLostError("the worker stopped, and this run was handed back: it is somebody else's now")

    async def _take_back_from_elsewhere(self, ids: Sequence[str]) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed: nobody is kept waiting by what is left of its runs
            self._loop.call_soon_threadsafe(self._returned, ids)
            waiting = self._wait_for_place()
            try:
                placed = asyncio.run_coroutine_threadsafe(waiting, self._loop)
            except RuntimeError:
                waiting.close()
                raise
            await asyncio.wrap_future(placed)

    def take_back_now(self, *ids: str) -> None:
        """Go on at once, even with one too many."""
        self._in_its_loop(self._take_back_now, ids)

    @property
    def is_waiting(self) -> bool:
        """Whether its task waits for results."""
        return self._waits > 0

    def _is_its_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _in_its_loop(self, act: Callable[[Sequence[str]], None], ids: Sequence[str]) -> None:
        """Do what touches slots in the worker's loop: a plain task may wait for results in a loop of its own."""
        if self._is_its_loop():
            act(ids)
        else:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(act, ids)

    def _lend(self, ids: Sequence[str]) -> None:
        self._waits += 1
        self.waited.extend(ids)
        self._free()

    def _returned(self, ids: Sequence[str]) -> None:
        self._waits -= 1
        for each in ids:
            self.waited.remove(each)

    def _take_back_now(self, ids: Sequence[str]) -> None:
        self._returned(ids)
        if self._needs_slot():
            self.slots.withdraw(self)
            self.slots.taken += 1
            self.granted()

    async def _wait_for_place(self) -> None:
        place = self._place or (self._ask_for_place() if self._needs_slot() else None)
        if place is not None:
            await asyncio.wait({place})  # so that a cancellation leaves it to others that wait in this run

    def granted(self) -> None:
        """Have the place that this run asked for; it may have begun to wait again since."""
        self._go_on()
        if self._needs_slot():
            self.holds_slot = True
        else:
            self._give_up_place()

    def _go_on(self) -> None:
        if self._place is not None:
            self._place.set_result(None)
            self._place = None

    def _ask_for_place(self) -> asyncio.Future[None] | None:
        """Ask for a place; None when there was one at once."""
        self._place = asyncio.get_running_loop().create_future()
        self.slots.ask(self)
        return self._place

    def _needs_slot(self) -> bool:
        return not (self.holds_slot or self._waits or self.is_over)

    def _free(self) -> None:
        if self.holds_slot:
            self.holds_slot = False
            self._give_up_place()

    def _give_up_place(self) -> None:
        self.slots.give_back()
        self._on_freed(self.kind)

    def check(self) -> None:
        """Raise CancelledError if it was cancelled before it began."""
        if self.cancelled_for is not None:
            raise asyncio.CancelledError

    def cancel(self, why: Cancelled) -> None:
        """Cancel the run, again and again until it ends; the first reason stays.

        One that has not begun sees `cancelled_for` when it does.
        """
        if self.cancelled_for is None and self.task is not None and not self.task.done():
            self.cancelled_for = why
            if self.is_started:  # asyncio drops a task that is cancelled before its first step, cleanup and all
                self._cancel()

    def _cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.cancellations += 1
            self.task.cancel()
            self._again = self._loop.call_later(CLEANUP, self._cancel)
