"""One run of one delivery: its slot, and why it was cancelled if it was."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Final

from ..tasks.options import RunsIn
from ..transport import Delivery

#: Seconds for which a delivery may wait in the worker for a slot of its kind, held back from other workers.
_WORTH_WAITING: Final = 0.25
_MOST_WAITING: Final = 100
#: How much of what is known of a kind's duration each run replaces.
_LEARNING: Final = 0.2


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
        "_is_over",
        "_on_freed",
        "_place",
        "_waits",
        "cancelled_for",
        "delivery",
        "holds_slot",
        "is_settled",
        "is_started",
        "kind",
        "slots",
        "started_at",
        "task",
    )

    def __init__(self, delivery: Delivery, kind: RunsIn, slots: Slots, on_freed: Callable[[RunsIn], None]) -> None:
        self.delivery = delivery
        self.kind: RunsIn = kind
        self.slots = slots
        self.task: asyncio.Task[None] | None = None
        self.cancelled_for: Cancelled | None = None
        self.started_at = 0.0
        self.is_started = False
        self.holds_slot = True
        self.is_settled = False  #: acknowledged before it ran (`acks_late=False`)
        self._waits = 0  # a task may wait for several results at once: the slot is lent until the last is there
        self._place: asyncio.Future[None] | None = None  # asked for, and not granted yet
        self._is_over = False  # what the task left behind may still wait, and has no slot to lend or to take
        self._on_freed = on_freed
        slots.taken += 1

    def end(self) -> None:
        """Free the slot for good."""
        self._is_over = True
        self.task = None  # whose context knows this run: a cycle less for the collector, and what it held is free now
        self.slots.withdraw(self)
        self._go_on()
        self._free()

    def lend(self) -> None:
        """Let another task run here meanwhile."""
        self._waits += 1
        self._free()

    async def take_back(self) -> None:
        """Wait for a place to go on."""
        self._waits -= 1
        if not self._needs_slot():
            return
        place = self._place or self._ask_for_place()
        if place is not None:
            await asyncio.wait({place})  # and so a cancellation leaves it to whoever else waits in this run

    def take_back_now(self) -> None:
        """Go on at once, even with one too many."""
        self._waits -= 1
        if self._needs_slot():
            self.slots.withdraw(self)
            self.slots.taken += 1
            self.granted()

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
        return not (self.holds_slot or self._waits or self._is_over)

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
        """Cancel the run; the first reason stays. One that has not begun sees `cancelled_for` when it does."""
        if self.cancelled_for is None and self.task is not None and not self.task.done():
            self.cancelled_for = why
            if self.is_started:  # asyncio drops a task that is cancelled before its first step, cleanup and all
                self.task.cancel()
