"""One child process as its parent sees it, from its start to its burial, and what is said through its pipe."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...core.tracebacks import described
from ...exceptions import EncodeError, RemoteError, WorkerLostError
from ...signals import worker_process_init, worker_process_shutdown
from .child import FAILURE, VALUE, ChildOptions, serve
from .pipe import BrokenOff, Pipe, PipeClosed, PipeTimeout
from .starting import StartMethod

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

#: Seconds for a child to come up, and then to import the function's module: heavy libraries take long.
_START_TIMEOUT: Final = 120.0
#: Seconds between the end of a child's connection and that of its process, or from SIGKILL to its effect.
DEATH_TIMEOUT: Final = 2.0


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


@dataclass(frozen=True, slots=True)
class Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    error: BaseException


class Lost(Exception):
    """No answer will come from this child; the text says when it ended."""


class OutOfTime(Exception):
    """No answer came from this child in time; it still runs."""


class ChildProcess:
    """One process. Started here; used by one thread at a time, and killed from any.

    Raises:
        WorkerLostError: it could not be started.
    """

    def __init__(self, method: StartMethod, max_memory: int | None) -> None:
        # A child is a fresh interpreter: its receivers connect when their modules are imported there.
        receivers = worker_process_init.modules() | worker_process_shutdown.modules()
        options = ChildOptions(sorted({*method.all_modules(), *receivers}), max_memory)
        # A Ctrl-C while the interpreter comes up is kept for later, when the child ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._connection, self._process = _started(method, options)
        except (
            OSError,
            RuntimeError,
            EOFError,
        ) as exc:  # RuntimeError: this is a child itself, importing its main module
            raise WorkerLostError(f"no process could be started: {exc}") from exc
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self._process.pid is not None
        self._pid = self._process.pid
        self._pipe = Pipe(self._connection.fileno(), has_deadlines=True)
        self._is_ready = False
        self._is_killed = False
        self._is_buried = False
        self.tasks = 0
        self.is_asked = False
        self.is_retired = False
        self.too_much: int | None = None  #: kB that it had after its last task, if that is more than it may have

    @property
    def is_spent(self) -> bool:
        """Whether it is not to be used again."""
        return self.is_retired or self._is_killed or self.too_much is not None

    def is_usable(self) -> bool:
        """Whether it is there still, when nothing was asked of it, and whatever was has been answered."""
        if self.is_spent or self.is_asked:
            return False
        ends = select.poll()
        ends.register(self._process.sentinel, select.POLLIN)
        if self._is_ready:  # an idle child says nothing: what there is to read is the end
            ends.register(self._connection.fileno(), select.POLLIN)
        return not ends.poll(0)

    def ask(self, call: ProcessCall, soft_time_limit: float | None, time_limit: float | None) -> Returned | Raised:
        """Send a call and return the answer.

        Raises:
            Lost: the child ended or did not come up.
            OutOfTime: `time_limit` seconds passed after the task started.
        """
        self.tasks += 1
        pipe = self._pipe
        try:
            if not self._is_ready:
                pipe.deadline = time.monotonic() + _START_TIMEOUT
                self._answer()
                self._is_ready = True
            pipe.deadline = time.monotonic() + _START_TIMEOUT
            head = (call.requires, call.module, call.qualname, soft_time_limit)
            try:
                pipe.send(head, (call.args, call.kwargs))
            except (PipeClosed, PipeTimeout):
                raise
            except Exception as exc:  # whatever the arguments' own pickling raises
                error = EncodeError(f"the arguments can't be pickled for the process: {described(exc)}")
                error.__cause__ = exc
                return Raised(error)
            answer = self._answer()
        except PipeTimeout:
            self.kill()
            raise Lost(f"because it had not started the task after {_START_TIMEOUT:g} s") from None
        except PipeClosed:
            raise Lost(f"before {'the task' if self._is_ready else 'it'} had started") from None
        if answer is not None:
            return answer
        pipe.deadline = None if time_limit is None else time.monotonic() + time_limit
        try:
            return self._answer() or Raised(WorkerLostError("the process said twice that the task started"))
        except PipeTimeout:
            raise OutOfTime from None
        except PipeClosed:
            raise Lost("before the task ended") from None

    def _answer(self) -> Returned | Raised | None:
        """Return what the child says next; None: that it is ready, or that the task has started."""
        pipe = self._pipe
        kind: str = pipe.receive()
        if kind not in (VALUE, FAILURE):
            pipe.finish()
            return None
        self.too_much = pipe.part()
        answer: Returned | Raised
        try:
            answer = Returned(pipe.part()) if kind == VALUE else _raised(*pipe.part())
        except (PipeClosed, PipeTimeout):
            raise
        except BrokenOff:  # the value could not be pickled: what follows says why
            return self._answer()
        except Exception as exc:  # whatever the value's own unpickling raises
            error = EncodeError(f"the task returned what can't be unpickled: {described(exc)}")
            error.__cause__ = exc
            answer = Raised(error)
        return answer if pipe.finish() else self._answer()

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

        # And not join(): until it is reaped its id, and its group's, are its own. (A fork server reaps at once.)
        wait([process.sentinel], timeout)
        self.kill()  # what is dead keeps its exit code; the programs that a task left behind go
        if process.exitcode is None:
            process.join(DEATH_TIMEOUT)
        code = process.exitcode
        self._is_buried = True
        with suppress(ValueError):  # it can't be reaped: it hangs in the kernel, or somebody else has waited for it
            process.close()
        if code is None:
            return "was lost"
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"


def _started(method: StartMethod, options: ChildOptions) -> tuple[Connection, BaseProcess]:
    context = method.context()
    ours, theirs = context.Pipe()
    # A daemon seen from here: an interpreter which exits without leaving the pool doesn't wait for it.
    process = context.Process(target=serve, args=(theirs, options), name="aiotq.process", daemon=True)
    with theirs:
        process.start()
    return ours, process


def _raised(pickled: bytes | None, type_name: str, text: str, trace: str) -> Raised:
    error: BaseException = RemoteError(type_name, text, trace)
    with suppress(Exception):  # its type can't be had here: it stays a RemoteError
        if pickled is not None:
            error = pickle.loads(pickled)
    error.__cause__ = ChildTraceback(trace)
    return Raised(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
