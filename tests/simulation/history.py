"""What happened in a world, seen from its servers and from inside its tasks, and what must be true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from .plan import Call
from .world import Process, World, process_here

Key = tuple[str, int]

#: Of messages and results with this in them servers say that they will never take them.
POISON: Final = "never take this"
#: Seconds after a process stood still in which it has not yet asked for its leases.
_RESUMED: Final = 0.05


@dataclass(eq=False)
class BodyRun:
    """A task's function that runs."""

    key: Key
    process: Process
    began: float


@dataclass
class History:
    """Facts, and the sentences about them that turned out false."""

    world: World
    #: Whether a process has, at this moment, the right to run a message.
    holds: Callable[[Process, Key], bool] = field(default=lambda process, key: False)
    accepted: dict[str, str] = field(default_factory=dict[str, str])  #: by id: the kind of call
    #: When a server last let somebody else have a message, its holder not having renewed its lease.
    lapsed: dict[Key, float] = field(default_factory=dict[Key, float])
    settled: dict[Key, str] = field(default_factory=dict[Key, str])
    running: dict[Key, list[BodyRun]] = field(default_factory=dict[Key, list[BodyRun]])
    joins_over: set[Key] = field(default_factory=set[Key])
    occurrences: dict[float, str] = field(default_factory=dict[float, str])
    ran: list[Key] = field(default_factory=list[Key])
    #: What a step of a workflow was given, by its id; each run of it must be given the same.
    heard: dict[str, Any] = field(default_factory=dict[str, Any])
    members: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  #: by id: those it hears of
    revoked: set[str] = field(default_factory=set[str])  #: in time
    got: dict[str, Any] = field(default_factory=dict[str, Any])
    alone_now: list[BodyRun] = field(default_factory=list[BodyRun])
    faults: list[str] = field(default_factory=list[str])

    def fault(self, what: str) -> None:
        """Note that a promise was broken."""
        self.world.note(f"BROKEN {what}")
        self.faults.append(what)

    @contextmanager
    def body(self, request: Any) -> Iterator[BodyRun]:
        """Surround the function of a task."""
        key, process = (request.id, request.attempt), process_here()
        run = BodyRun(key, process, self.world.now)
        self.world.note(f"{process.name} runs {key}")
        # Who stood still between its last question and the first step of a function could not have known.
        if key in self.settled and self.world.now > process.still_until + _RESUMED:
            self.fault(f"a settled call runs again: {key} in {process.name}, settled by {self.settled[key]}")
        for other in self.running.get(key, ()):
            if not other.process.is_dead and self.lapsed.get(key, -1.0) < other.began:
                self.fault(f"two live leases: {key} runs in {other.process.name} and {process.name}")
        self.running.setdefault(key, []).append(run)
        self.ran.append(key)
        try:
            yield run
        finally:
            self.running[key].remove(run)

    @contextmanager
    def alone(self, request: Any) -> Iterator[None]:
        """Surround the function of a task of which one may run at once."""
        run = BodyRun((request.id, request.attempt), process_here(), self.world.now)
        for other in self.alone_now:
            is_live = not other.process.is_dead and self.holds(other.process, other.key)
            if is_live and other.key != run.key:  # `body` looks at two runs of one call
                self.fault(f"two at once of max_concurrency=1: {other.key} and {run.key}")
        self.alone_now.append(run)
        try:
            yield
        finally:
            self.alone_now.remove(run)

    def hear(self, task_id: str, before: Any) -> None:
        """Note what a step of a workflow was given."""
        if self.heard.setdefault(task_id, before) != before:
            self.fault(f"{task_id} is given two things: {self.heard[task_id]} and {before}")

    def accept(self, result: Any, call: Call) -> None:
        """Note that a call, or a workflow, was accepted."""
        self.accepted[result.id] = call.kind
        self.world.note(f"accepted {result.id} {call.kind}")
        parent = result.parent
        while parent is not None:
            members = getattr(parent, "results", None)
            self.members[result.id] = [each.id for each in members] if members is not None else [parent.id]
            if members is not None:
                break
            result, parent = parent, parent.parent

    def settle(self, key: Key, by: str, *, had_lease: bool) -> None:
        """Note that a call was settled for good, as its server did it."""
        self.world.note(f"{key} is settled by {by}")
        if not had_lease:
            self.fault(f"a commit without a lease: {key} by {by}")
        if key in self.settled:
            self.fault(f"a call is settled twice: {key} by {self.settled[key]} and {by}")
        self.settled[key] = by

    def end_join(self, keys: list[Key]) -> None:
        """Note what a join that is over sends."""
        for key in keys:
            if key in self.joins_over:
                self.fault(f"a join resolves twice: {key}")
            self.joins_over.add(key)

    def occur(self, due: float, task_id: str) -> None:
        """Note that the occurrence of `due` runs as `task_id`."""
        before = self.occurrences.setdefault(due, task_id)
        if before != task_id:
            self.fault(f"the occurrence of {due} is sent twice: {before} and {task_id}")
