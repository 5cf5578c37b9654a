"""CPU-bound tasks in child processes: one at a time in each, killed on time limits, gone with the parent.

The parent speaks with each child from a thread, so that nothing here blocks the loop. Whoever wants a child to stop
kills it: the thread that waits for its answer sees the end of the connection and buries it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
from anyio import to_thread

from ...core.aio import finish, start
from ...exceptions import InvalidOption, TimeLimitExceeded, WorkerLostError
from .child_process import DEATH_TIMEOUT, ChildProcess, Lost, OutOfTime, ProcessCall, Raised, Returned
from .policy import ChildPolicy
from .starting import FORKSERVER

logger = logging.getLogger("aiotq.worker")

#: Seconds for an idle child to run its exit handlers when the pool is left; then it is killed.
_END_TIMEOUT: Final = 5.0
#: Seconds that a restart waits for idle children to end.
_RESTART_TIMEOUT: Final = 2 * _END_TIMEOUT


class ProcessPool:
    """Runs up to `size` calls at once, each in a child process of its own; an async context manager.

    Children are used again for as long as the `policy` says; one that is not is replaced at once, and not when the
    next call comes. They import the main module as `__mp_main__`, in a session of their own, so that Ctrl-C reaches
    neither them nor the programs that a task starts. When a child ends or is killed, such programs are killed too.
    When this process dies, however it dies, so do they all.

    Leaving the pool ends the children; a call which still runs gets WorkerLostError.
    """

    def __init__(self, size: int, policy: ChildPolicy | None = None) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one process, not {size}")
        self._policy = policy or ChildPolicy()
        self._slots = [_ChildSlot(self._policy) for _ in range(size)]
        # The last used is used first: its memory is warm, and what isn't needed is never started.
        self._free = deque(self._slots)
        self._turn = asyncio.Semaphore(size)
        self._threads = anyio.CapacityLimiter(math.inf)  # the slots bound them
        self._is_open = False
        self._beside: list[asyncio.Task[Any]] = []  # children that start and end while nobody waits

    async def __aenter__(self) -> ProcessPool:
        self._is_open = True
        policy = self._policy
        if policy.is_warm:
            for slot in self._slots:
                self._start_beside(slot.renew)
        elif policy.method.name == FORKSERVER and policy.method.modules:
            self._start_beside(policy.method.context)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_open = False
        await finish(self._end(), 2 * _END_TIMEOUT + 2 * DEATH_TIMEOUT * len(self._slots))

    async def _end(self) -> None:
        await to_thread.run_sync(_close, self._slots, limiter=self._threads)
        if self._beside:
            await asyncio.wait(self._beside)

    def _start_beside(self, act: Callable[[], object]) -> None:
        self._beside = [each for each in self._beside if not each.done()]
        work = to_thread.run_sync(act, limiter=self._threads)
        self._beside.append(start(work, name="aiotq.process", context=contextvars.copy_context()))

    async def restart(self) -> int:
        """Have calls from now on run in fresh interpreters; return how many children that replaces.

        Those that are idle end at once, those that run a call when it has ended.
        """
        retired = sum([slot.retire() for slot in self._slots])
        await finish(to_thread.run_sync(_bury_idle, self._slots, limiter=self._threads), _RESTART_TIMEOUT)
        return retired

    async def run(
        self, call: ProcessCall, *, soft_time_limit: float | None = None, time_limit: float | None = None
    ) -> Any:
        """Run `call` in a child and return its value, or raise what it raised.

        That may be any exception, SystemExit and CancelledError included; one which can't be pickled
        arrives as RemoteError. Its cause is the child's traceback.

        The limits, in seconds, count from when the child has found the function. At the soft one
        SoftTimeLimitExceeded is raised inside it (in a coroutine function as a cancellation, when it
        awaits); at the hard one the child is killed. Cancelled, the child is killed too.

        Raises:
            WorkerLostError: the child ended before the task did, or could not be started.
            TimeLimitExceeded: the hard limit passed.
            EncodeError: the arguments or the value can't be pickled.
            InvalidOption: nothing can be imported as `module.qualname` in a child, or there are none here (Windows).
        """
        async with self._turn:
            if not self._is_open:
                raise RuntimeError("the process pool is not open")
            if not hasattr(os, "killpg"):
                raise InvalidOption('run="process" can\'t be on this system: use run="thread"')
            slot = self._free.pop()
            job = _Job(call, soft_time_limit, time_limit)
            try:
                answer = await to_thread.run_sync(slot.perform, job, abandon_on_cancel=True, limiter=self._threads)
            except BaseException:
                slot.abandon(job)
                self._free.appendleft(slot)  # it is busy burying its child: the others come first
                raise
            else:
                self._free.append(slot)
            finally:
                if slot.needs_a_child and self._is_open:
                    self._start_beside(slot.renew)
        if isinstance(answer, Raised):
            raise answer.error
        return answer.value


@dataclass(slots=True, eq=False)
class _Job:
    call: ProcessCall
    soft_time_limit: float | None
    time_limit: float | None
    is_abandoned: bool = False


class _ChildSlot:
    """A place for one child after another, and for one job at a time."""

    def __init__(self, policy: ChildPolicy) -> None:
        self._policy = policy
        self._max_tasks = policy.max_tasks or math.inf
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._job: _Job | None = None
        self._is_closed = False

    def perform(self, job: _Job) -> Returned | Raised:
        """Have `job` done by a child; all that may come of it is a value."""
        with self._lock:
            self._job = job  # before `is_abandoned` is looked at: `abandon` goes the other way round
            try:
                return self._ask(job)
            except (WorkerLostError, TimeLimitExceeded) as exc:
                return Raised(exc)
            finally:
                self._job = None

    def abandon(self, job: _Job) -> None:
        """See that `job` ends soon: nobody waits for its answer. Called by the loop; does not block."""
        job.is_abandoned = True
        child = self._child
        if self._job is job and child is not None:
            child.kill()

    @property
    def needs_a_child(self) -> bool:
        """Whether there is none that the next job may have."""
        child = self._child
        return child is None or child.is_spent or child.tasks >= self._max_tasks

    def renew(self) -> None:
        """See that the child which the next job may have starts now."""
        with self._lock:
            if self._is_closed or not self.needs_a_child:
                return
            if self._child is not None:
                self._bury(self._child, _END_TIMEOUT)
            with suppress(WorkerLostError):  # the next job tries again, and says why
                self._child = ChildProcess(self._policy.method, self._policy.max_memory)

    def retire(self) -> bool:
        """Let its child do no further job; whether there is one. Does not block."""
        child = self._child
        if child is None:
            return False
        child.is_retired = True
        return True

    def bury_idle(self) -> None:
        """End its child if that was retired and does nothing."""
        if self._lock.acquire(blocking=False):
            try:
                if self._child is not None and self._child.is_retired:
                    self._bury(self._child, _END_TIMEOUT)
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let no job start any more, and end the one which runs. Does not block."""
        self._is_closed = True
        if (job := self._job) is not None:
            self.abandon(job)

    def hang_up(self) -> None:
        """Tell the child to end."""
        with self._lock:
            if self._child is not None:
                self._child.hang_up()

    def clear(self, timeout: float) -> None:
        """Wait `timeout` seconds for the child to end, then kill it."""
        with self._lock:
            if self._child is not None:
                self._bury(self._child, timeout)

    def _ask(self, job: _Job) -> Returned | Raised:
        child = self._usable_child(job)
        child.is_asked = True
        try:
            answer = child.ask(job.call, job.soft_time_limit, job.time_limit)
        except OutOfTime:
            child.kill()
            self._bury(child, DEATH_TIMEOUT)
            raise TimeLimitExceeded(f"hard time limit of {job.time_limit:g} s exceeded") from None
        except Lost as lost:
            raise WorkerLostError(f"the process {self._bury(child, DEATH_TIMEOUT)} {lost}") from None
        child.is_asked = False
        if child.too_much is not None:
            text = "a child process has %d kB, over worker_max_memory_per_child (%s): another one takes its place"
            logger.info(text, child.too_much, self._policy.max_memory)
        return answer

    def _usable_child(self, job: _Job) -> ChildProcess:
        if job.is_abandoned or self._is_closed:
            raise WorkerLostError("the task was stopped before its process started")
        child = self._child
        if child is not None and (self.needs_a_child or not child.is_usable()):
            self._bury(child, _END_TIMEOUT)
        if self._child is None:
            self._child = ChildProcess(self._policy.method, self._policy.max_memory)
        if job.is_abandoned or self._is_closed:
            self._child.kill()  # the wish may have come before there was a child to kill
        return self._child

    def _bury(self, child: ChildProcess, timeout: float) -> str:
        self._child = None
        return child.bury(timeout)


def _close(slots: Sequence[_ChildSlot]) -> None:
    """End all children, within bounds."""
    for slot in slots:
        slot.close()
    for slot in slots:
        slot.hang_up()  # all of them before the first is waited for
    deadline = time.monotonic() + _END_TIMEOUT
    for slot in slots:
        slot.clear(max(0.0, deadline - time.monotonic()))


def _bury_idle(slots: Sequence[_ChildSlot]) -> None:
    for slot in slots:
        slot.bury_idle()
