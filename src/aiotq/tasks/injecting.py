"""Making the dependencies of one run, and closing them: on the loop, or where there is none."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Protocol

from ..exceptions import CallError
from .dependencies import Dependencies, Overrides, Plan, Step
from .request import Request
from .running import one_by_one
from .task import Task


class InThread(Protocol):
    """Calls a plain function apart from the loop, to its end even when its caller is cancelled."""

    def __call__(self, function: Callable[[], Any], /) -> Awaitable[Any]: ...


async def called_here(function: Callable[[], Any]) -> Any:
    """As `InThread`, on a loop that is the run's own."""
    return function()


async def run_injected(
    task: Task[..., Any], needs: Dependencies, request: Request, overrides: Overrides, in_thread: InThread
) -> Any:
    """Run the `async def` of `task` with what it needs; raises what it, or a dependency, raises."""
    async with injected(needs.plan(overrides), in_thread) as given:
        return await ready(task, needs, request, given)(*request.args, **request.kwargs)


def run_injected_now(task: Task[..., Any], needs: Dependencies, request: Request, overrides: Overrides) -> Any:
    """Run the plain function of `task`, whose dependencies need no loop, in this thread."""
    with injected_now(needs.plan(overrides)) as given:
        value = ready(task, needs, request, given)(*request.args, **request.kwargs)
        if inspect.iscoroutine(value):
            value.close()
            raise CallError(
                f"{task.name} returned a coroutine, which would run after its dependencies are closed: "
                "make it an async def"
            )
        return value


def ready(task: Task[..., Any], needs: Dependencies, request: Request, given: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what the arguments of a call are for."""
    call = needs.given_to(task.called, given)
    return call if request.mode == "once" else one_by_one(call, request.mode, is_coroutine=task.is_coroutine)


@asynccontextmanager
async def injected(plan: Plan, in_thread: InThread) -> AsyncGenerator[Mapping[str, Any], None]:
    """Have made what `plan` says; closed in the reverse order, with the error that ends the run raised inside of each.

    An error that a dependency keeps to itself goes on all the same: the outcome is the task's. One that a dependency
    raises takes its place.
    """
    opened: list[Any] = []
    error: BaseException | None = None
    try:
        values: list[Any] = []
        for step in plan.steps:
            values.append(await _made(step, values, opened, in_thread))  # later ones need them
        yield {name: values[index] for name, index in plan.given}
    except BaseException as exc:
        error = exc
    for each in reversed(opened):
        try:
            await each.__aexit__(*_told(error))
        except BaseException as exc:
            error = exc
    if error is not None:
        raise error


@contextmanager
def injected_now(plan: Plan) -> Generator[Mapping[str, Any], None, None]:
    """As `injected`, without a loop."""
    opened: list[Any] = []
    error: BaseException | None = None
    try:
        values: list[Any] = []
        for step in plan.steps:
            values.append(_made_now(step, values, opened))  # as above
        yield {name: values[index] for name, index in plan.given}
    except BaseException as exc:
        error = exc
    for each in reversed(opened):
        try:
            each.__exit__(*_told(error))
        except BaseException as exc:
            error = exc
    if error is not None:
        raise error


_Told = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def _told(error: BaseException | None) -> _Told:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


async def _made(step: Step, values: list[Any], opened: list[Any], in_thread: InThread) -> Any:
    given = {name: values[index] for name, index in step.given}
    call: Any = step.call
    match step.way:
        case "lifespan":
            return call.value
        case "await":
            return await call(**given)
        case "call":
            return await in_thread(lambda: call(**given))
        case "enter async":
            entering: Any = asynccontextmanager(call)(**given)
        case "enter":
            entering = _InThread(contextmanager(call)(**given), in_thread)
    value = await entering.__aenter__()
    opened.append(entering)
    return value


def _made_now(step: Step, values: list[Any], opened: list[Any]) -> Any:
    given = {name: values[index] for name, index in step.given}
    call: Any = step.call
    if step.way == "lifespan":
        return call.value
    if step.way != "enter":
        return call(**given)
    entering: Any = contextmanager(call)(**given)
    value = entering.__enter__()
    opened.append(entering)
    return value


class _InThread:
    """A context manager that blocks, entered and left in threads."""

    def __init__(self, blocking: Any, in_thread: InThread) -> None:
        self._blocking = blocking
        self._in_thread = in_thread
        self._is_entered = False

    def _enter(self) -> Any:
        value = self._blocking.__enter__()
        self._is_entered = True
        return value

    async def __aenter__(self) -> Any:
        try:
            return await self._in_thread(self._enter)
        except BaseException as exc:  # a cancellation comes when the thread has ended: what is open then is closed
            if self._is_entered:
                await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        found: bool | None = await self._in_thread(lambda: self._blocking.__exit__(kind, error, trace))
        return found
