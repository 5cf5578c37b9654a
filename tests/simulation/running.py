"""A world from its plan to a verdict; the clocks, threads and random numbers of this process become the world's."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast

import anyio.to_thread

from aiotq.beat import scheduler
from aiotq.calling import connection
from aiotq.control import presence
from aiotq.exceptions import AioTQError, OperationalError
from aiotq.wire import message
from aiotq.worker import lifeline, neighbours, worker

from .history import History
from .model import Servers, SimBackend, unsettled
from .network import Network
from .plan import ENDS, MODELS, Plan
from .programs import PERIOD, Programs
from .world import EPOCH, Event, Process, Spins, Thread, World, current, process_here

#: Virtual seconds: faults end, at the latest.
_CALM: Final = 14.0
#: Within so many after that all is settled.
BOUND: Final = 40.0
#: What comes too late or twice shows itself within so many more.
_AFTERWARDS: Final = 4.0
#: Seconds after which what died is started again.
_RESTART: Final = 1.0


__all__ = ["MODELS", "Verdict", "prepare", "run"]


@dataclass(frozen=True)
class Verdict:
    """What became of a world."""

    faults: tuple[str, ...]
    trace: tuple[str, ...]
    steps: int
    requests: int
    struck: int  #: faults that came to pass

    @property
    def digest(self) -> str:
        """The trace in short."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    @property
    def kind(self) -> str:
        """Which promise was broken, without the names of who did it; empty if none was."""
        return self.faults[0].partition(":")[0] if self.faults else ""


class _Defects(logging.Handler):
    """Notes errors that aiotq catches, logs and goes on after, but for those that are told to its users."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.history: History | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if self.history is not None and error is not None and not isinstance(error, (AioTQError, ValueError)):
            self.history.fault(f"a defect is logged: {record.getMessage()}: {error!r}")


_defects: Final = _Defects()


def prepare() -> None:
    """Make this process one that runs worlds; it is good for nothing else from now on."""
    log = logging.getLogger("aiotq")
    log.setLevel(logging.ERROR)
    log.addHandler(_defects)
    log.propagate = False
    clock: Any = time
    clock.time = lambda: current.world.now + EPOCH + _offset()
    clock.monotonic = clock.perf_counter = lambda: current.world.now
    clock.time_ns = lambda: int((current.world.now + EPOCH) * 1e9)
    threads: Any = anyio.to_thread
    threads.run_sync = _in_thread
    modules: Any = SimpleNamespace(lifeline=lifeline, connection=connection)
    modules.lifeline.threading = SimpleNamespace(Thread=Thread, Event=Event, get_ident=lambda: 0)
    modules.connection.backend_class = lambda url: SimBackend
    with_facts: tuple[Any, ...] = (presence, worker, scheduler, neighbours)
    for module in with_facts:
        module.about_process = _about_process
    gc.disable()  # a dead process must not be cleaned up, which would run its code


def _offset() -> float:
    try:
        return process_here().wall_offset
    except RuntimeError:
        return 0.0


async def _in_thread(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    return await process_here().in_thread(lambda: function(*args))


def _about_process() -> dict[str, Any]:
    return {"host": "sim", "pid": 1, "boot_id": "", "pid_space": 0, "process_started": 1}


def run(plan: Plan, *, keeps_trace: bool = True) -> Verdict:
    """Run a world; the same plan gives the same trace."""
    return _Run(plan).verdict(keeps_trace)


#: Worlds that were: nothing of them is ever cleaned up.
_kept: Final[list[object]] = []


class _Run:
    def __init__(self, plan: Plan) -> None:
        random.seed(plan.seed)
        entropy = Random(plan.seed)
        os.urandom = entropy.randbytes
        message._digits.clear()
        cast(Any, asyncio.tasks)._all_tasks.data.clear()  # those of worlds that were, which have equal numbers
        self._plan = plan
        self._world = current.world = World(plan.seed, is_ordered=plan.is_ordered)
        self._network = Network(self._world, plan.faults)
        self._history = _defects.history = History(self._world)
        self._servers = SimBackend.servers = Servers(plan.model, self._world, self._network, self._history)
        self._programs = Programs(plan, self._servers, self._history)
        self._looked = 0.0
        _kept.append(self)

    def verdict(self, keeps_trace: bool) -> Verdict:
        world, history = self._world, self._history
        try:
            self._live()
        except Spins as exc:
            history.fault(f"it spins: {exc}")
        for process in (*world.processes, *world.graves):
            for error in process.errors:
                history.fault(f"an error in a callback: {error}")
        trace = tuple(world.trace) if keeps_trace or history.faults else ()
        return Verdict(tuple(history.faults), trace, world.steps, self._network.requests, self._network.struck)

    def _live(self) -> None:
        world, plan = self._world, self._plan
        self._keep("publisher", self._programs.publish)
        for number in range(plan.workers):
            self._keep(f"worker{number}", self._programs.work)
        for number in range(plan.schedulers):
            self._keep(f"beat{number}", self._programs.schedule)
        over = world.run(self._is_over, _CALM)
        self._network.calm_down()
        if not over:
            over = world.run(self._is_over, max(_CALM, world.now) + BOUND)
        ended = world.now
        self._network.calm_down()
        history = self._history
        if history.lapsed and not self._network.struck:
            history.fault(f"a living worker loses its leases, and nothing was wrong: {history.lapsed}")
        if not over:
            self._say_what_is_left()
            return
        world.run(lambda: False, ended + _AFTERWARDS)
        self._check_outcomes(ended)

    def _keep(self, name: str, main: Callable[[Process], Coroutine[Any, Any, None]], life: int = 1) -> None:
        """Have a program run; started anew when its process dies, or ends."""
        process = self._world.spawn(f"{name}.{life}", main)

        def again() -> None:
            self._world.after(_RESTART, lambda: self._keep(name, main, life + 1))

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._world.note(f"{process.name} fails: {error!r}")
            if error is not None and not isinstance(error, OperationalError):
                self._history.fault(f"a process fails: {process.name} with {error!r}")
            if name != "publisher" or not self._programs.is_all_called:
                process.on_death.remove(again)
                self._world.kill(process)
                again()

        process.on_death.append(again)
        assert process.main is not None
        process.main.add_done_callback(ended)

    def _is_over(self) -> bool:
        now = self._world.now
        if not self._programs.is_all_called or now - self._looked < 0.5:
            return False
        self._looked = now
        return not unsettled(self._servers, self._history.accepted) and not self._left()

    def _left(self) -> list[str]:
        return [] if self._plan.schedulers else self._servers.left()

    def _say_what_is_left(self) -> None:
        history = self._history
        for each in unsettled(self._servers, history.accepted):
            history.fault(f"not settled within the bound: {each} {history.accepted[each]}, {self._servers.left()}")
        if not self._programs.is_all_called:
            history.fault("a publisher hangs: not all calls were made")
        if left := self._left():
            history.fault(f"something is left over: {left}")

    def _check_outcomes(self, ended: float) -> None:
        history, records = self._history, self._servers.records
        for task_id, kind in history.accepted.items():
            record = records.get(task_id)
            state = "PENDING" if record is None else record.state
            if state not in ENDS[kind] or (task_id in history.revoked and state != "REVOKED"):
                history.fault(f"another outcome: {kind} {task_id} ended as {state}: {record}")
            if record is not None and task_id in history.got and history.got[task_id].encode() not in record.body:
                history.fault(f"a caller got another value: {history.got[task_id]} and {record.body!r}")
            self._check_members(task_id)
        if self._plan.schedulers and ended > 3 * PERIOD:
            self._check_occurrences(ended)

    def _check_members(self, task_id: str) -> None:
        """See that a step was given what its members' records say."""
        heard = self._history.heard.get(task_id)
        if heard is None:
            return
        if self._plan.model == "three":  # a worker that dies between record and claim has its task run again
            return
        given = heard if isinstance(heard, list) else [heard]
        for member, value in zip(self._history.members.get(task_id, ()), given, strict=False):
            record = self._servers.records.get(member)
            if record is None or str(value).encode() not in record.body:
                self._history.fault(f"a step is given what is not stored: {task_id} of {member}: {value}, {record}")

    def _check_occurrences(self, ended: float) -> None:
        dues = sorted(due for due in self._history.occurrences if due < EPOCH + ended - 2 * PERIOD)
        missing = [due for due, later in itertools.pairwise(dues) if later - due != PERIOD]
        if missing or (not dues and ended > 6 * PERIOD):
            self._history.fault(f"an occurrence is missing: of {dues}")
