"""What a flow's function gets: its steps, sleeps and events."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast, overload

from ..canvas.signature import Signature
from ..core.values import shown
from ..exceptions import InvalidOption
from ..tasks.task import Task
from ..wire.message import is_name
from .journal import Kind

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds of a hundred years: nobody waits longer.
_LONGEST: Final = 3_155_760_000.0


class Asking(Protocol):
    """The run of a flow, as its context asks it for things."""

    def ask(
        self, kind: Kind, name: str, seconds: float | None, call: Signature[Any] | None
    ) -> Coroutine[Any, Any, Any]:
        """Note what the flow asks for; what is returned waits until it is there."""
        ...


class FlowContext:
    """The first argument of a flow: `async def order(ctx: FlowContext, number: int)`.

    What it is asked for is numbered in the order of the calls of its methods, not of the awaits. So they may run side
    by side: `asyncio.gather(ctx.step(a), ctx.step(b))`, or in a task group.
    """

    def __init__(self, flow_id: str, run: Asking) -> None:
        #: The id of the flow: that of its call.
        self.id = flow_id
        self._run = run

    @overload
    def step(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    @overload
    def step(self, task: Signature[R], /) -> Coroutine[Any, Any, R]: ...
    def step(self, task: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a task, and return its value when it is there; the flow takes no worker meanwhile.

        `task` is a task with the arguments of the call, or a signature, which may have options of the call. A step that
        was done is not called again, whatever becomes of workers.

        Raises:
            InvalidArguments, EncodeError, …: it can't be called so.
            Exception: what the task failed with, when it was not to be retried any more.
        """
        call: Signature[Any]
        if isinstance(task, Task):
            call = cast("Task[..., Any]", task).s(*args, **kwargs)
        elif isinstance(task, Signature) and not (args or kwargs):
            call = cast("Signature[Any]", task)
        else:
            given = shown(cast(object, task))
            raise InvalidOption(f"ctx.step takes a task and its arguments, or a signature alone, not {given}")
        if call.mode != "once" or "link" in call.options or "link_error" in call.options:
            raise InvalidOption(f"ctx.step: {shown(call)} is more than one call; what follows it is the next step")
        return self._run.ask("step", call.task, None, call)

    def sleep(
        self, seconds: float = 0.0, /, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> Coroutine[Any, Any, None]:
        """Go on after this time. Nothing of the flow is in a worker meanwhile.

        Raises:
            InvalidOption: it is below 0, or more than a hundred years.
        """
        wanted = seconds + 60.0 * minutes + 3600.0 * hours + 86_400.0 * days
        return self._run.ask("sleep", "", _checked("sleep", wanted), None)

    def event(self, name: str, *, timeout: float | timedelta) -> Coroutine[Any, Any, Any]:
        """Return the value of the next signal called `name` (`app.flows.signal`) that no other event has taken.

        One that came before is there at once. `timeout`: seconds, or a timedelta.

        Raises:
            EventTimeout: none came in time. A signal that comes at the same moment is taken or kept, never lost.
            InvalidOption: the name or the timeout can't be so.
        """
        if not is_name(name):
            raise InvalidOption(f"ctx.event: a name is text of 1 to 255 printable characters, not {shown(name)}")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        return self._run.ask("event", name, _checked("event", seconds), None)


def _checked(what: str, seconds: Any) -> float:
    if type(seconds) not in {int, float} or not 0 <= seconds <= _LONGEST:
        raise InvalidOption(f"ctx.{what}: it must be seconds, 0 to a hundred years, not {shown(seconds)}")
    return float(seconds)
