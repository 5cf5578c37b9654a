"""The code that runs in a child process: one call after another, each with its request as the current one."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import logging
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ...canvas.serialized import as_form
from ...core import django_project, surroundings
from ...core.child import become_child
from ...core.inside import core_of
from ...core.system import most_resident_bytes, resident_bytes
from ...core.tracebacks import described, formatted, text_of
from ...exceptions import (
    CallError,
    EncodeError,
    InvalidOption,
    Reject,
    RemoteError,
    Retry,
    SoftTimeLimitExceeded,
    SoftTimeLimitInterrupt,
    TaskPredicate,
)
from ...signals import worker_process_init, worker_process_shutdown
from ...tasks.injecting import called_here, run_injected, run_injected_now
from ...tasks.request import Request, running_request
from ...tasks.retries import asked_for
from ...tasks.running import one_by_one
from ...tasks.task import Task
from .pipe import BrokenOff, Pipe, PipeClosed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger("aiotq.worker")

#: What a child says first, in every message.
READY: Final = "ready"
STARTED: Final = "started"
VALUE: Final = "value"
FAILURE: Final = "failure"


def run_task(module: str, qualname: str, request: Request) -> Any:
    """Run the task which stands at `qualname` in `module`; an `async def` gives its coroutine."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Task):
        raise InvalidOption(f'{module}.{qualname} is no task in the child: run="process" needs one at module level')
    found.running(request).__enter__()  # the context is this run's own
    request = running_request.get()  # to which the task adds what it tells
    task = cast("Task[..., Any]", found)
    around = surroundings.installed()
    if task.is_coroutine:
        coro = _called(task, request)
        return _awaited(coro if around is None else around.awaited(coro), request)
    value = _called(task, request) if around is None else around.call(partial(_called, task, request))
    return _awaited(value, request) if inspect.iscoroutine(value) else _ran(value, request)


def _called(task: Task[..., Any], request: Request) -> Any:
    with suppress(CallError):  # a shared task, in a child where nothing made an app
        core = core_of(task)
        core.trace()
        if core.tracing is not None:
            core.tracing.enter_child(request)
    needs, is_coroutine = task.dependencies, task.is_coroutine
    if needs is None:
        called = task.called
        call = called if request.mode == "once" else one_by_one(called, request.mode, is_coroutine=is_coroutine)
        return call(*request.args, **request.kwargs)
    if is_coroutine:
        return run_injected(task, needs, request, {}, called_here)
    return run_injected_now(task, needs, request, {})


async def _awaited(coro: Coroutine[Any, Any, Any], request: Request) -> Any:
    return _ran(await coro, request)


def _ran(value: Any, request: Request) -> Any:
    if not (request.children or request.added or request.events):
        return value
    return Ran(value, request.children, [as_form(canvas) for canvas in request.added], request.events)


class Ran:
    """What a task returned in a child, the ids of the calls it made there, what it added to its group (forms), and the
    events that it told."""

    def __init__(
        self, value: Any, children: list[str], added: list[dict[str, Any]], events: Sequence[Mapping[str, Any]]
    ) -> None:
        self.value = value
        self.children = children
        self.added = added
        self.events = events


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """How a child is: which modules it imports before it is ready, and with how many kB it is to be replaced."""

    modules: Sequence[str] = ()
    max_memory: int | None = None


def serve(connection: Connection, options: ChildOptions) -> None:
    """Be a child: do one call after another until the parent hangs up."""
    _settle_in(connection)
    _begin(options.modules)
    pipe = Pipe(connection.fileno())
    try:
        pipe.send(READY)
        while True:
            _perform(pipe, options.max_memory)
    except PipeClosed:
        worker_process_shutdown.send_now(None, pid=os.getpid(), exitcode=0)


def _begin(modules: Sequence[str]) -> None:
    try:
        django_project.set_up()
    except Exception:  # as below
        logger.exception("the Django project can't be set up in a child process")
    for module in modules:
        if module != "__main__":  # it is `__mp_main__` here, and imported
            try:
                importlib.import_module(module)
            except Exception:  # the user's module: should a task need it, that says so
                logger.exception(
                    "%s can't be imported in a child process: signal receivers in it are not called", module
                )
    worker_process_init.send_now(None)


def _settle_in(connection: Connection) -> None:
    become_child()
    with suppress(PermissionError):  # it leads one already
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    import multiprocessing  # noqa: PLC0415  # 8 ms of everybody's start, for those who use processes

    multiprocessing.current_process().daemon = False  # a task may use multiprocessing itself
    # Were a process which a task forked to hold the connection too, the parent would not see this one's end.
    os.register_at_fork(after_in_child=connection.close)
    threading.Thread(target=_die_with_parent, name="aiotq.lifeline", daemon=True).start()


def _die_with_parent() -> None:
    import multiprocessing  # noqa: PLC0415  # as above
    from multiprocessing.connection import wait  # noqa: PLC0415  # as above

    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _perform(pipe: Pipe, max_memory: int | None) -> None:
    """Do one call. One that breaks off, for its arguments can't be pickled, is not answered: nobody waits for that."""
    try:
        requires, module, qualname, soft_time_limit = pipe.receive()
        if requires is not None:
            _load(requires)
        function = _find(module, qualname)
        try:
            args, kwargs = pipe.part()
        except (BrokenOff, PipeClosed):
            raise
        except Exception as exc:
            raise EncodeError(f"the arguments can't be unpickled in the process: {described(exc)}") from exc
        pipe.finish()
    except BrokenOff:
        return
    except PipeClosed:
        raise
    except BaseException as exc:
        if pipe.finish():
            _answer_failure(pipe, exc, None)
        return
    pipe.send(STARTED)
    try:
        # What a run sets in its context ends with it.
        value = contextvars.copy_context().run(_SoftLimit(soft_time_limit).call, function, args, kwargs)
    except BaseException as exc:  # SystemExit in a task must not end the child
        _flush()
        _answer_failure(pipe, exc, _too_much(max_memory))
    else:
        _flush()
        _answer(pipe, value, _too_much(max_memory))


def _flush() -> None:
    for stream in sys.stdout, sys.stderr:
        with suppress(Exception):  # closed by a task, or None
            stream.flush()  # what a task printed is to be seen when it ended


def _too_much(max_memory: int | None) -> int | None:
    """Return how many kB this process has, should that be too much."""
    if max_memory is None:
        return None
    has = (resident_bytes() or most_resident_bytes() or 0) // 1024
    return has if has > max_memory else None


def _load(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as exc:  # whatever the module raises when it is imported
        raise InvalidOption(
            f"run='process' needs its module importable in a child, and {module} is not: {described(exc)}"
        ) from exc


def _find(module: str, qualname: str) -> Callable[..., Any]:
    needs = f"run='process' needs a function importable as module.qualname, and {module}.{qualname} is none"
    try:
        found: Any = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except Exception as exc:  # whatever the module raises when it is imported
        raise InvalidOption(f"{needs}: {described(exc)}") from exc
    if not callable(found):
        raise InvalidOption(f"{needs}: it is a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


class _SoftLimit:
    """Calls a function, and raises SoftTimeLimitExceeded inside it, once, when `seconds` have passed.

    The alarm interrupts Python code between two instructions. In a coroutine function it does so only while
    a step of the coroutine itself runs; while the coroutine waits, it is cancelled, and what it then gets
    is the limit's error.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._is_inside = False
        self._has_rung = False
        self._interrupt: Callable[[], object] | None = None

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._seconds is not None:
            # The handler outlives the limit and does nothing then: a late alarm must not end the process.
            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            self._is_inside = True
            try:
                value = function(*args, **kwargs)
            finally:
                self._is_inside = False
            return asyncio.run(self._drive(value)) if inspect.iscoroutine(value) else value
        finally:
            if self._seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: types.FrameType | None) -> None:
        if self._is_inside:
            raise self._error()
        if self._interrupt is not None:
            self._has_rung = True
            self._interrupt()

    def _error(self) -> SoftTimeLimitExceeded:
        kind = SoftTimeLimitExceeded if self._interrupt is None else SoftTimeLimitInterrupt
        return kind(f"soft time limit of {self._seconds:g} s exceeded")

    async def _drive(self, coro: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._interrupt = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            return await self._steps(coro, task)
        finally:
            self._interrupt = None

    @types.coroutine
    def _steps(self, coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                self._is_inside = True
                try:
                    awaited = coro.send(None) if error is None else coro.throw(error)
                finally:
                    self._is_inside = False
            except StopIteration as done:
                return done.value
            except SoftTimeLimitExceeded as exc:
                if inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED:
                    raise
                error = exc  # the alarm rang on the way in or out: the coroutine hasn't seen it yet
                continue
            error = None
            try:
                yield awaited
            except asyncio.CancelledError as exc:
                error = exc
                if self._has_rung:
                    self._has_rung = False
                    task.uncancel()
                    error = self._error()
            except BaseException as exc:
                error = exc


def _answer(pipe: Pipe, value: object, too_much: int | None) -> None:
    try:
        pipe.send(VALUE, too_much, value)
    except PipeClosed:
        raise
    except Exception as exc:  # whatever the value's own pickling raises
        error = EncodeError(f"the task returned a {type(value).__qualname__} which can't be pickled: {described(exc)}")
        error.__cause__ = exc
        _answer_failure(pipe, error, too_much)
    except BaseException as exc:
        _answer_failure(pipe, exc, too_much)


def _answer_failure(pipe: Pipe, error: BaseException, too_much: int | None) -> None:
    """Tell `error` with its traceback as text: in this process's words, should it not be picklable."""
    asked = asked_for(error)
    if asked is not None:
        error = _portable(asked)
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next  # how it was called is of no interest
    trace = formatted(error.with_traceback(tb))
    text = text_of(error)
    kind = type(error)
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    type_name = kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    pipe.send(FAILURE, too_much, (_pickled(error), type_name, text, trace))


def _portable(asked: TaskPredicate) -> BaseException:
    """Return what a task asked for so that it can be sent: what it is only told by stands for itself in words."""
    if isinstance(asked, Retry) and asked.exc is not None:
        asked.exc = cast(BaseException, _stand_in(asked.exc))
    if isinstance(asked, Reject) and not _is_picklable(asked.reason):
        asked.reason = text_of(asked.reason)
        asked.args = (asked.reason, asked.requeue)
    if _is_picklable(asked):
        return asked
    return EncodeError(f"what the task asked for can't be pickled, and so not be done: {described(asked)}")


def _stand_in(error: BaseException) -> object:
    """Return `error` if it survives pickling, else a RemoteError in its place."""
    for candidate in _candidates(error):
        if _survives(candidate, error) is not None:
            return candidate
    return RemoteError(type(error).__qualname__, text_of(error))


def _is_picklable(given: object) -> bool:
    try:
        pickle.loads(pickle.dumps(given))
    except Exception:  # whatever its own methods raise
        return False
    return True


def _pickled(error: BaseException) -> bytes | None:
    """Return `error` so that it comes out of unpickling as it went in, or None.

    Pickle calls the type with `error.args`: many types with a constructor of their own can't be called so,
    or change their text. They are made again without their constructor; as a last resort without their
    attributes too.
    """
    return next((data for each in _candidates(error) if (data := _survives(each, error)) is not None), None)


def _candidates(error: BaseException) -> Sequence[object]:
    return (error, _Exactly(error, error.__dict__), _Exactly(error, {}))


def _survives(candidate: object, error: BaseException) -> bytes | None:
    """Return `candidate` pickled, if it is unpickled as `error`."""
    with suppress(Exception):  # whatever the type's own methods raise
        data = pickle.dumps(candidate)
        copy = pickle.loads(data)
        if type(copy) is type(error) and str(copy) == str(error):
            return data
    return None


class _Exactly:
    """Pickled in the place of an exception, which is then made without calling its constructor."""

    def __init__(self, error: BaseException, state: dict[str, Any]) -> None:
        self._error = error
        self._state = state

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _rebuilt, (type(self._error), self._error.args, self._state)


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
