"""CPU-bound tasks in child processes: one at a time in each, killed on time limits, gone with the parent.

The parent speaks with each child from a thread, so that nothing here blocks the loop. A child says `READY`
once, and answers a call with `STARTED` and then its value or its failure. Whoever wants a child to stop
kills it: the thread that waits for its answer sees the end of the connection and buries it.
"""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from ...core.aio import finish
from ...core.tracebacks import described
from ...exceptions import EncodeError, InvalidOption, RemoteError, TimeLimitExceeded, WorkerLostError
from ...signals import worker_process_init, worker_process_shutdown
from .child import STARTED, VALUE, serve

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: Seconds for a child to come up, and then to import the function's module: heavy libraries take long.
_START_TIMEOUT: Final = 120.0
#: Seconds for an idle child to run its exit handlers when the pool is left; then it is killed.
_END_TIMEOUT: Final = 5.0
#: Seconds that a restart waits for idle children to end.
_RESTART_TIMEOUT: Final = 2 * _END_TIMEOUT
#: Seconds between the end of a child's connection and that of its process, or from SIGKILL to its effect.
_DEATH_TIMEOUT: Final = 2.0
#: Seconds of one wait for an answer: what `poll` takes is bounded by what a C int has in milliseconds.
_LONGEST_POLL: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ProcessCall:
    """What a child calls: a function, or a task, which stands at `qualname` in `module`.

    `requires` is a module that is imported first; like `module` itself it does not count against the limits.
    """

    module: str
    qualname: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    requires: str | None = None


class ChildTraceback(Exception):
    """The traceback, as text, of an exception raised in a child process; that exception's `__cause__`."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class ProcessPool:
    """Runs up to `size` calls at once, each in a child process of its own; an async context manager.

    Children start when they are first needed and are used again, each for `max_tasks_per_child` calls at
    most. They are fresh interpreters which import the main module as `__mp_main__`, in a session of their
    own, so that Ctrl-C reaches neither them nor the programs that a task starts. When a child ends or is
    killed, such programs are killed too. When this process dies, however it dies, so do they all.

    Leaving the pool ends the children; a call which still runs gets WorkerLostError.
    """

    def __init__(self, size: int, *, max_tasks_per_child: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one process, not {size}")
        if max_tasks_per_child is not None and max_tasks_per_child < 1:
            raise ValueError(f"max_tasks_per_child must be at least 1, not {max_tasks_per_child}")
        self._slots = [_ChildSlot(max_tasks_per_child) for _ in range(size)]
        # The last used is used first: its memory is warm, and what isn't needed is never started.
        self._free = deque(self._slots)
        self._turn = asyncio.Semaphore(size)
        self._threads = anyio.CapacityLimiter(math.inf)  # the slots bound them
        self._is_open = False

    async def __aenter__(self) -> ProcessPool:
        self._is_open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_open = False
        ending = to_thread.run_sync(_close, self._slots, limiter=self._threads)
        await finish(ending, _END_TIMEOUT + 2 * _DEATH_TIMEOUT * len(self._slots))

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
            self._free.append(slot)
        if isinstance(answer, _Raised):
            raise answer.error
        return answer.value


@dataclass(slots=True, eq=False)
class _Job:
    call: ProcessCall
    soft_time_limit: float | None
    time_limit: float | None
    is_abandoned: bool = False


@dataclass(frozen=True, slots=True)
class _Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class _Lost(Exception):
    """No answer will come from this child; the text says when it ended."""


class _OutOfTime(Exception):
    """No answer came from this child in time; it still runs."""


class _ChildSlot:
    """A place for one child after another, and for one job at a time."""

    def __init__(self, max_tasks_per_child: int | None) -> None:
        self._max_tasks = max_tasks_per_child or math.inf
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._job: _Job | None = None
        self._is_closed = False

    def perform(self, job: _Job) -> _Returned | _Raised:
        """Have `job` done by a child; all that may come of it is a value."""
        with self._lock:
            self._job = job  # before `is_abandoned` is looked at: `abandon` goes the other way round
            try:
                return _decode(self._ask(job))
            except (WorkerLostError, TimeLimitExceeded, EncodeError) as exc:
                return _Raised(exc)
            finally:
                self._job = None

    def abandon(self, job: _Job) -> None:
        """See that `job` ends soon: nobody waits for its answer. Called by the loop; does not block."""
        job.is_abandoned = True
        child = self._child
        if self._job is job and child is not None:
            child.kill()

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

    def _ask(self, job: _Job) -> bytes:
        request = _encode_call(job)
        child = self._usable_child(job)
        child.is_asked = True
        try:
            answer = child.ask(request, job.time_limit)
            child.is_asked = False
            return answer
        except _OutOfTime:
            child.kill()
            self._bury(child, _DEATH_TIMEOUT)
            raise TimeLimitExceeded(f"hard time limit of {job.time_limit:g} s exceeded") from None
        except _Lost as lost:
            raise WorkerLostError(f"the process {self._bury(child, _DEATH_TIMEOUT)} {lost}") from None

    def _usable_child(self, job: _Job) -> _Child:
        if job.is_abandoned or self._is_closed:
            raise WorkerLostError("the task was stopped before its process started")
        child = self._child
        if child is not None and (child.is_retired or child.tasks >= self._max_tasks or not child.is_usable()):
            self._bury(child, _END_TIMEOUT)
        if self._child is None:
            self._child = _Child()
        if job.is_abandoned or self._is_closed:
            self._child.kill()  # the wish may have come before there was a child to kill
        return self._child

    def _bury(self, child: _Child, timeout: float) -> str:
        self._child = None
        return child.bury(timeout)


class _Child:
    """One process, from its start to its burial."""

    def __init__(self) -> None:
        import multiprocessing  # noqa: PLC0415  # 8 ms of everybody's start, for those who use processes

        context = multiprocessing.get_context("spawn")
        # A child is a fresh interpreter: its receivers connect when their modules are imported there.
        modules = sorted(worker_process_init.modules() | worker_process_shutdown.modules())
        # A Ctrl-C while the interpreter comes up is kept for later, when the child ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._connection, theirs = context.Pipe()
            # A daemon seen from here: an interpreter which exits without leaving the pool doesn't wait for it.
            self._process = context.Process(target=serve, args=(theirs, modules), name="aiotq.process", daemon=True)
            with theirs:
                self._process.start()
        except (OSError, RuntimeError) as exc:  # RuntimeError: this is a child itself, importing its main module
            raise WorkerLostError(f"no process could be started: {exc}") from exc
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self._process.pid is not None
        self._pid = self._process.pid
        self._is_ready = False
        self._is_killed = False
        self._is_buried = False
        self.tasks = 0
        self.is_asked = False
        self.is_retired = False

    def is_usable(self) -> bool:
        """Whether it is there still, when nothing was asked of it, and whatever was has been answered."""
        from multiprocessing.connection import wait  # noqa: PLC0415  # 8 ms of everybody's start, for those who use processes

        # An idle child says nothing: what there is to read is the end.
        ends: list[int | Connection] = [self._process.sentinel]
        if self._is_ready:
            ends.append(self._connection)
        return not (self._is_killed or self.is_asked or wait(ends, 0))

    def ask(self, request: bytes, time_limit: float | None) -> bytes:
        """Send a call and return the answer.

        Raises:
            _Lost: the child ended or did not come up.
            _OutOfTime: `time_limit` seconds passed after the task started.
        """
        self.tasks += 1
        try:
            if not self._is_ready:
                self._receive(_START_TIMEOUT)
                self._is_ready = True
            self._connection.send_bytes(request)
            answer = self._receive(_START_TIMEOUT)
        except _OutOfTime:
            self.kill()
            raise _Lost(f"because it had not started the task after {_START_TIMEOUT:g} s") from None
        except (EOFError, OSError):
            raise _Lost(f"before {'the task' if self._is_ready else 'it'} had started") from None
        if answer != STARTED:
            return answer
        try:
            return self._receive(time_limit)
        except (EOFError, OSError):
            raise _Lost("before the task ended") from None

    def kill(self) -> None:
        """End it, and the programs its task started, at once. From any thread; does not block."""
        self._is_killed = True
        if self._is_buried:
            return
        with suppress(ProcessLookupError, PermissionError):  # it has not come up to a session of its own yet
            os.killpg(self._pid, signal.SIGKILL)
        with suppress(ValueError):  # buried meanwhile
            self._process.kill()

    def hang_up(self) -> None:
        """Tell it to end; it does when it is idle."""
        self._connection.close()

    def bury(self, timeout: float) -> str:
        """Wait `timeout` seconds for it to end by itself, then kill it; return how it ended."""
        process = self._process
        self._connection.close()
        from multiprocessing.connection import wait  # noqa: PLC0415  # 8 ms of everybody's start, for those who use processes

        wait([process.sentinel], timeout)  # and not join(): until it is reaped its id, and its group's, are its own
        self.kill()  # what is dead keeps its exit code; the programs that a task left behind go
        if process.exitcode is None:
            process.join(_DEATH_TIMEOUT)
        code = process.exitcode
        self._is_buried = True
        with suppress(ValueError):  # it can't be reaped: it hangs in the kernel, or somebody else has waited for it
            process.close()
        if code is None:
            return "was lost"
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"

    def _receive(self, timeout: float | None) -> bytes:
        while timeout is not None and not self._connection.poll(min(timeout, _LONGEST_POLL)):
            timeout -= _LONGEST_POLL
            if timeout <= 0:
                raise _OutOfTime
        return self._connection.recv_bytes()


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


def _encode_call(job: _Job) -> bytes:
    call = job.call
    head = (call.requires, call.module, call.qualname, job.soft_time_limit)
    try:
        return pickle.dumps((*head, pickle.dumps((call.args, call.kwargs), pickle.HIGHEST_PROTOCOL)))
    except Exception as exc:  # whatever the arguments' own pickling raises
        raise EncodeError(f"the arguments can't be pickled for the process: {described(exc)}") from exc


def _decode(answer: bytes) -> _Returned | _Raised:
    content = memoryview(answer)[1:]
    if answer[:1] == VALUE:
        try:
            return _Returned(pickle.loads(content))
        except Exception as exc:  # whatever the value's own unpickling raises
            raise EncodeError(f"the task returned what can't be unpickled: {described(exc)}") from exc
    pickled, type_name, text, trace = pickle.loads(content)
    error: BaseException = RemoteError(type_name, text, trace)
    with suppress(Exception):  # its type can't be had here: it stays a RemoteError
        if pickled is not None:
            error = pickle.loads(pickled)
    error.__cause__ = ChildTraceback(trace)
    return _Raised(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
