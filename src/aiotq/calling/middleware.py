"""Middleware: layers around the sending of calls and around the running of tasks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Protocol, Unpack, cast

from ..core.values import value
from ..exceptions import CallError, InvalidOption
from ..results.handle import AsyncResult
from ..tasks.options import CallOptions, said
from ..tasks.request import Request
from ..tasks.task import Task


@value(eq=False)
class OutgoingCall:
    """A call before it is sent. It is a value: the methods return a new one to forward."""

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: CallOptions = field(default_factory=CallOptions)

    @property
    def headers(self) -> Mapping[str, Any]:
        """The caller's own headers, which the task reads as `request.headers`."""
        return self.options.get("headers") or {}

    def with_headers(self, **headers: Any) -> OutgoingCall:
        """Return this call with further headers."""
        return self.with_options(headers={**self.headers, **headers})

    def with_options(self, **options: Unpack[CallOptions]) -> OutgoingCall:
        """Return this call with further options; an option that is None is removed."""
        return replace(self, options=said(cast(CallOptions, {**self.options, **options})))

    def with_arguments(self, /, *args: Any, **kwargs: Any) -> OutgoingCall:
        """Return this call with other arguments."""
        return replace(self, args=args, kwargs=kwargs)


@value(eq=False)
class RunningCall:
    """A call before it runs in this worker. It is a value: the methods return a new one to forward."""

    task: Task[..., Any]
    request: Request

    @property
    def headers(self) -> Mapping[str, Any]:
        """The caller's own headers."""
        return self.request.headers

    def with_arguments(self, /, *args: Any, **kwargs: Any) -> RunningCall:
        """Return this call with other arguments for this run; a retry has those that were sent."""
        return replace(self, request=replace(self.request, args=args, kwargs=kwargs))


Sending = Callable[[Sequence[OutgoingCall]], Awaitable[Sequence[AsyncResult[Any]]]]
Running = Callable[[RunningCall], Awaitable[Any]]


class Middleware(Protocol):
    """Wraps the calls that an app sends, and the tasks that its workers run.

        class Tracing(Middleware):
            async def send(self, calls, forward):
                return await forward([call.with_headers(trace=trace_id.get()) for call in calls])

            async def run(self, call, forward):
                trace_id.set(call.headers.get("trace"))
                return await forward(call)

        app.add_middleware(Tracing())

    The first middleware that was added is the outermost. A subclass has one of the methods or both. Both may forward
    other calls than those they were given, or forward none.
    """

    async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
        """Send `calls` by `await forward(calls)` and return its value: their results, in order.

        They are the calls of one `delay`, `apply_async` or `send_many`. The broker accepts all of them or none. An
        exception is raised to the caller.
        """
        return await forward(calls)

    async def run(self, call: RunningCall, forward: Running) -> Any:
        """Run `call` by `await forward(call)` and return its value.

        The returned value is the task's result, and a raised exception is its outcome. The task's exceptions pass
        through here, including `Retry`, `Ignore` and the like, and `asyncio.CancelledError` when the run is cancelled.
        It runs in the task's context: the task sees context variables that it sets, on the loop and in a thread.
        """
        return await forward(call)


class Outermost(Middleware, Protocol):
    """Middleware of ours, which says for each run what there is to do."""

    def around(self, request: Request) -> tuple[Middleware, ...]:
        """Return what the run of `request` goes through; it is called in the context of the run."""
        ...


class MiddlewareStack:
    """The middleware of an app, outermost first; those with `send` and those with `run`."""

    def __init__(self) -> None:
        self.senders: tuple[Middleware, ...] = ()
        self.runners: tuple[Middleware, ...] = ()
        self.outermost: Outermost | None = None

    def add(self, middleware: Middleware) -> None:
        """Put `middleware` round the calls that the app sends and the tasks that its workers run from now on.

        What was added first is outermost: it sees a call before the others do, and its outcome after them.

        Raises:
            InvalidOption: it is a class, or has not `send` and `run` as coroutine functions.
        """
        if isinstance(middleware, type):
            raise InvalidOption(f"middleware is an object: add {middleware.__qualname__}(), not the class")
        for name in ("send", "run"):
            if not inspect.iscoroutinefunction(getattr(middleware, name, None)):
                raise InvalidOption(
                    f"middleware {middleware!r} needs `async def {name}`: make it a subclass of aiotq.Middleware"
                )
        if _has_own(middleware, "send"):
            self.senders = (*self.senders, middleware)
        if _has_own(middleware, "run"):
            self.runners = (*self.runners, middleware)

    def add_outermost(self, outermost: Outermost) -> None:
        """Put `outermost` round all others, those to come too."""
        self.senders = (outermost, *self.senders)
        self.outermost = outermost

    def around(self, request: Request) -> tuple[Middleware, ...]:
        """Return what the run of `request`, which is in its context, goes through; outermost first. Without an
        `outermost` that is `runners`."""
        around = self.runners if self.outermost is None else self.outermost.around(request)
        return around if self.outermost is None or not self.runners else (*around, *self.runners)

    async def send(self, calls: Sequence[OutgoingCall], innermost: Sending) -> Sequence[AsyncResult[Any]]:
        """Send `calls` through all of `senders`.

        Raises:
            CallError: one of them did not answer with as many handles.
        """
        forward = innermost
        for middleware in reversed(self.senders):
            forward = _sending(middleware, forward)
        sent: object = await forward(calls)
        if not isinstance(sent, list | tuple) or len(cast("list[Any]", sent)) != len(calls):
            raise CallError(
                f"middleware must return the handles of {len(calls)} calls (`return await forward(calls)`), "
                f"not {type(cast(object, sent)).__name__}"
            )
        return cast("Sequence[AsyncResult[Any]]", sent)


async def run_through(runners: Sequence[Middleware], call: RunningCall, innermost: Running) -> Any:
    """Run `call` through `runners`, outermost first."""
    forward = innermost
    for middleware in reversed(runners):
        forward = _running(middleware, forward)
    return await forward(call)


def _has_own(middleware: Middleware, name: str) -> bool:
    return getattr(type(middleware), name, None) is not getattr(Middleware, name)


def _sending(middleware: Middleware, forward: Sending) -> Sending:
    return lambda calls: middleware.send(calls, forward)


def _running(middleware: Middleware, forward: Running) -> Running:
    return lambda call: middleware.run(call, forward)
