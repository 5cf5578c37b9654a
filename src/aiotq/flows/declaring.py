"""`@app.flow`: makes a task of a function that gets a `FlowContext`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from ..core.hints import hints_of
from ..exceptions import InvalidOption
from ..results import ScheduleChange
from ..tasks.durable import FlowTask
from ..tasks.keys import Unique, keyed_tasks
from ..tasks.registry import TaskDeclaration
from ..tasks.running import gives_coroutine
from ..wire.message import Envelope
from .context import FlowContext

if TYPE_CHECKING:
    from ..calling.core import AppCore
    from .handles import Flows

P = ParamSpec("P")
R = TypeVar("R")

#: Options that have no meaning for what ends where it waits and begins again from its journal.
_REFUSED: Final = ("bind", "run", "stream", "transactional", "debounce")


class FlowDecorator(Protocol):
    """The type of `app.flow(...)`: from a function whose first parameter is the context to the task of the others."""

    def __call__(self, fn: Callable[Concatenate[FlowContext, P], Coroutine[Any, Any, R]], /) -> FlowTask[P, R]: ...


class Flowing:
    """What makes flows of an app."""

    def __init__(self, core: AppCore) -> None:
        self._core = core

    @property
    def handles(self) -> Flows:
        """The flows that are under way."""
        from .handles import Flows  # noqa: PLC0415

        return Flows(self._core)

    @overload
    def flow(self, fn: Callable[Concatenate[FlowContext, P], Coroutine[Any, Any, R]], /) -> FlowTask[P, R]: ...
    @overload
    def flow(self, **options: Unpack[TaskDeclaration]) -> FlowDecorator: ...
    def flow(self, fn: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a function durable: `@app.flow`, or `@app.flow(queue="hi", …)`.

            @app.flow
            async def order(ctx: FlowContext, number: int) -> str:
                card = await ctx.step(charge, number)
                await ctx.sleep(days=2)
                return await ctx.event("shipped", timeout=7 * 86_400)

        Where it waits its run ends, and what it came to is in a journal. When it goes on, in any worker, the function
        runs from its beginning, and gets from the journal what it had. So it must do the same each time: all that
        changes something, or may come out otherwise, is a step.

        Raises:
            InvalidOption: an option can't be so, or has no meaning for a flow; the function is no `async def` with a
                parameter for the context.
        """
        for option in _REFUSED:
            if options.get(option) not in {None, False}:
                raise InvalidOption(
                    f"flow option {option}: a flow ends where it waits, and begins again from its journal"
                )
        if options.get("acks_late") is False:
            raise InvalidOption("flow option acks_late: a flow is acknowledged when its journal is written")
        unique = options.get("unique")
        if isinstance(unique, Unique) and unique.until == "started":
            raise InvalidOption('flow option unique: a flow starts again and again: until="done", or seconds')

        def register(function: Callable[..., Any]) -> Any:
            base: Any = options.get("base") or self._core.registry.task_cls or FlowTask
            if isinstance(base, type) and not issubclass(base, FlowTask):
                kinds: Any = (base, FlowTask)
                base = type(base.__name__, kinds, {"__module__": base.__module__, "__doc__": base.__doc__})
            register_one: Any = self._core.registry.task
            made: Any = register_one(**{**options, "acks_late": True, "base": base})(_driven(self._core, function))
            made.opening = _opening
            keyed_tasks.add(made.name)  # its calls are sent with their journals
            return made

        return register if fn is None else register(fn)


def _driven(core: AppCore, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function without the context that runs `fn` from its journal."""
    if not gives_coroutine(fn):
        raise InvalidOption(f"flow {fn!r} must be an async def")
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters or parameters[0].kind not in {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }:
        raise InvalidOption(f"flow {fn!r} must have a first parameter for its context: async def f(ctx, …)")

    async def flow(*args: Any, **kwargs: Any) -> Any:
        from .run import run_flow  # noqa: PLC0415

        return await run_flow(core, fn, args, kwargs)

    made = cast("Any", flow)
    made.__wrapped__ = fn
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(flow, name, getattr(fn, name, None))
    hints = hints_of(fn)
    made.__annotations__ = {name: hint for name, hint in hints.items() if name != parameters[0].name}
    made.__signature__ = inspect.Signature(
        parameters[1:], return_annotation=hints.get("return", inspect.Signature.empty)
    )
    return flow


def _opening(envelope: Envelope, seen: str, now: float) -> ScheduleChange:
    from .writing import opening  # noqa: PLC0415

    return opening(envelope, seen, now)
