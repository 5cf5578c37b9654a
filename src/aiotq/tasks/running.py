"""The running task and its request. A task that another one calls as a function has a request of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import NoCurrentTask
from .request import Request, running_request

if TYPE_CHECKING:
    from .task import Task

#: The direct call that runs here: the request of the run that made it, and its own.
_direct: Final[ContextVar[tuple[Request, Request] | None]] = ContextVar("aiotq_direct_call", default=None)
#: The task that a worker is about to call.
_entering: Final[ContextVar[object]] = ContextVar("aiotq_entering", default=None)


def current_request() -> Request:
    """Return the request of the innermost call here: of the run, or of a task that it calls as a function."""
    run, direct = running_request.get(), _direct.get()
    return direct[1] if direct is not None and direct[0] is run else run


def gives_coroutine(fn: Callable[..., Any]) -> bool:
    """Whether `fn`, a function or an object that is called as one, is an `async def`."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def is_generator(fn: Callable[..., Any]) -> bool:
    """Whether `fn`, a function or an object that is called as one, is an `async def` that yields."""
    return inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(type(fn).__call__)


def current_trails() -> bool:
    """Whether the running task stores the ids of the calls that it makes."""
    task: Task[..., Any] | None = running_request.get().runner
    return task is not None and task.declared.trail


class CurrentTask:
    """A proxy of the running task (`aiotq.current_task`): its attributes are that task's."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return current_request().runner is not None

    def __getattr__(self, name: str) -> Any:
        task = current_request().runner
        if task is None:
            raise NoCurrentTask(f"current_task.{name}: no task runs here")
        return getattr(task, name)


class Running:
    """A context manager in which a task is the running one of its context."""

    __slots__ = ("_request", "_token")

    def __init__(self, task: Task[..., Any], request: Request) -> None:
        self._request = request if request.runner is task else replace(request, runner=task)

    def __enter__(self) -> None:
        self._token = running_request.set(self._request)

    def __exit__(self, *exc_info: object) -> None:
        running_request.reset(self._token)


def one_by_one(called: Callable[..., Any], mode: str, *, is_coroutine: bool) -> Callable[[Iterable[Any]], Any]:
    """Return a function that calls `called` with each item of its argument ("map"), or with their elements."""

    def call(item: Any) -> Any:
        return called(item) if mode == "map" else called(*item)

    async def all_awaited(items: Iterable[Any]) -> list[Any]:
        return [await call(item) for item in items]

    def all_called(items: Iterable[Any]) -> list[Any]:
        return [call(item) for item in items]

    return all_awaited if is_coroutine else all_called


def entered(task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `task` as a worker does, through the `__call__` of its class: that is the run, and no direct call in one."""
    _entering.set(task)
    return task(*args, **kwargs)


def calling_run(task: object) -> Request | None:
    """Return the request of the run that calls `task` directly; None if a worker calls it, or no task runs here."""
    if _entering.get() is task:
        _entering.set(None)
        return None
    run = running_request.get()
    return None if run.id is None else run


def call_apart(
    fn: Callable[..., Any],
    own: Request,
    run: Request,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    is_coroutine: bool,
) -> Any:
    """Call `fn` with the request `own`, in the code of `run`."""
    direct = (run, own)
    if is_coroutine:
        return _awaited_apart(direct, fn, args, kwargs)
    token = _direct.set(direct)
    try:
        return fn(*args, **kwargs)
    finally:
        _direct.reset(token)


async def _awaited_apart(
    direct: tuple[Request, Request], fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    around = _direct.get()
    _direct.set(direct)
    try:
        return await fn(*args, **kwargs)
    finally:
        _direct.set(around)  # and not by a token: Python may close a coroutine in another context
