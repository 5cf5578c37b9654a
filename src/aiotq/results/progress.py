"""How far a workflow is: counted from pushes, never polled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from .. import states
from ..core.values import value
from .document import DocumentCodec
from .drawn import Call, Handle, Members, calls_in, steps_to
from .records import Record, RecordStore
from .waiting import Waiting

#: Records looked at in one request.
_AT_ONCE: Final = 1000


@value
class StepProgress:
    """How far one step of a chain is: a task, or all tasks of a group. `name` is the task's name, or `group`."""

    name: str
    done: int
    failed: int
    total: int


@value
class Progress:
    """How many of a workflow's tasks have ended: with a value, without one (prevented ones too), and of how many.

    `steps` are those of its outermost chain, in order.
    """

    done: int
    failed: int
    total: int
    steps: tuple[StepProgress, ...]

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.done + self.failed

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return self.ended == self.total

    @property
    def fraction(self) -> float:
        """Which part of all has ended, 0.0 to 1.0."""
        return self.ended / self.total if self.total else 1.0


class Pushed(Protocol):
    """Where records are read and pushed."""

    @property
    def records(self) -> RecordStore: ...

    @property
    def codec(self) -> DocumentCodec: ...

    @property
    def waiting(self) -> Waiting: ...


async def progress_of(
    handle: Handle, connect: Callable[[], Awaitable[Pushed]], elsewhere: Callable[[Pushed, Call], bool]
) -> AsyncGenerator[Progress, None]:
    """Yield how far the workflow of `handle` is, now and whenever that has changed, up to its end.

    `elsewhere` says of a call whether its records go to another process.
    """
    counts = _Counts(handle)
    if not counts.missing:
        yield counts.progress()
        return
    source = await connect()
    ids = tuple(counts.missing)
    there = [call.id for call in counts.calls if call.id in counts.missing and elsewhere(source, call)]
    async with source.waiting.records(ids, elsewhere=there) as records:
        for start in range(0, len(ids), _AT_ONCE):
            found = await source.records.get(ids[start : start + _AT_ONCE])
            counts.take([record for record in found if record is not None])
        yield counts.progress()
        while counts.missing:
            if counts.take(await records.take()):
                yield counts.progress()


class _Counts:
    """Counts the tasks of a workflow. One whose results are not kept is not counted."""

    def __init__(self, handle: Handle) -> None:
        self.calls: list[Call] = []
        #: The steps in which an id stands that has not ended.
        self.missing: dict[str, list[int]] = {}
        self._steps: list[StepProgress] = []
        for number, step in enumerate(steps_to(handle)):
            name = "group" if isinstance(step, Members) else step.task_name or step.id
            self._steps.append(StepProgress(name, 0, 0, 0))
            for call in calls_in(step):
                self._begin(call, number)
        self._done = sum(step.done for step in self._steps)
        self._failed = sum(step.failed for step in self._steps)
        self._total = sum(step.total for step in self._steps)

    def _begin(self, call: Call, number: int) -> None:
        document, step = call.document, self._steps[number]
        if document is None and call.is_known:  # its result is ignored: nobody will ever hear of it
            return
        self.calls.append(call)
        self._steps[number] = replace(step, total=step.total + 1)
        if document is None:
            self.missing.setdefault(call.id, []).append(number)
        else:
            self._end(number, document.state)

    def _end(self, number: int, state: str) -> None:
        step = self._steps[number]
        is_done = state == states.SUCCESS
        self._steps[number] = replace(step, done=step.done + is_done, failed=step.failed + (not is_done))

    def take(self, records: Sequence[Record]) -> bool:
        """Take records; return whether one of them tells of an end that was not known."""
        before = len(self.missing)
        for record in records:
            if states.is_ready(record.state):
                for number in self.missing.pop(record.id, ()):
                    self._end(number, record.state)
                    self._done += record.state == states.SUCCESS
                    self._failed += record.state != states.SUCCESS
        return len(self.missing) < before

    def progress(self) -> Progress:
        """Return what is counted so far."""
        return Progress(self._done, self._failed, self._total, tuple(self._steps))
