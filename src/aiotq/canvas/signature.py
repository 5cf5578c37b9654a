"""Signatures, and what they have in common with what is made of them: values that are never changed, only replaced."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Self, TypeVar, cast

from ..core.celery_names import CANVAS, knows
from ..core.inside import App, core_of
from ..core.settings import Settings
from ..core.sync import Bridge, expect_loop
from ..core.values import replace, shown, value
from ..exceptions import CallError, InvalidOption
from ..results.handle import AsyncResult
from ..tasks.options import check_options_here, said
from ..tasks.request import running_request
from .sync import SyncCanvas

if TYPE_CHECKING:
    from ..app import AioTQ
    from ..graph.graph import Graph
    from .stamping import StampingVisitor

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Handle = TypeVar("Handle")
Handle_co = TypeVar("Handle_co", covariant=True)

#: The effect of a step's failure on its chain or group: it fails too; the step is left out; the exception takes the
#: place of the value.
WhenFailed = Literal["fail", "skip", "continue"]
_WHEN_FAILED: Final = ("fail", "skip", "continue")
#: How a task is called: once; or once for each item of an iterable, one after the other.
Mode = Literal["once", "map", "starmap"]
#: The options that have callbacks.
LINKS: Final = frozenset({"link", "link_error"})
#: Levels that a canvas is shown in; what is deeper can't be read.
MAX_SHOWN_DEPTH: Final = 40


class Sender(Protocol):
    """The part of an app's core that signatures use."""

    @property
    def _core(self) -> Sender: ...

    @property
    def app(self) -> AioTQ:
        """The app."""
        ...

    @property
    def bridge(self) -> Bridge:
        """Runs coroutines for code without a loop."""
        ...

    @property
    def conf(self) -> Settings:
        """The app's settings."""
        ...

    def send_workflow(self, workflow: Canvas[Handle]) -> Coroutine[Any, Any, Handle]:
        """Send a workflow in one round trip; the handle of its result."""
        ...

    async def apply_workflow(
        self, workflow: Canvas[Handle], *, throw: bool | None, root_id: str | None = None
    ) -> Handle:
        """Run a workflow in this process, as part of the workflow `root_id`; return its result, which has ended."""
        ...

    def find_task(self, name: str) -> Callable[..., Any]:
        """Return a registered task."""
        ...


_default_sender: list[Sender] = []


def set_default_sender(sender: Sender) -> None:
    """Make `sender` the app of canvases without an app, such as those made from names alone."""
    _default_sender[:] = [sender]


@knows(CANVAS)
class Canvas(abc.ABC, Generic[Handle_co]):
    """A signature, chain, group or chord: it can be sent, and composed with others."""

    __slots__ = ()

    when_failed: WhenFailed

    @property
    def app(self) -> AioTQ | None:
        """The app that sends it; None if it was made from names alone."""
        sender = sender_of(self)
        return None if sender is None else sender.app

    @property
    @abc.abstractmethod
    def id(self) -> str | None:
        """The id of the call or group that its value comes from, if it is fixed already."""

    @property
    @abc.abstractmethod
    def parts(self) -> Sequence[Canvas[Any]]:
        """Its parts, without callbacks."""

    @abc.abstractmethod
    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with `args` before its own, and with `kwargs` and `options` replacing its own."""

    @abc.abstractmethod
    def link(self, *callbacks: Canvas[Any]) -> Self:
        """Return a copy with callbacks: each is called with the value after success."""

    @abc.abstractmethod
    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        """Return a copy with error callbacks: each is called with request, exception and traceback after a failure.

        If the callback's task takes a single argument, it is called with the id of the task that failed.
        """

    @abc.abstractmethod
    def set_immutable(self, immutable: bool) -> Self:
        """Return a copy that takes no value from the step before it, or takes one; of a chord it is the body."""

    @abc.abstractmethod
    def text(self, depth: int = 0) -> str:
        """Return it as text; levels below `MAX_SHOWN_DEPTH` are left out."""

    def __repr__(self) -> str:
        return self.text()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Canvas):
            return NotImplemented
        left: list[tuple[Canvas[Any], Canvas[Any]]] = [(self, cast("Canvas[Any]", other))]
        while left:  # no recursion: they may be nested too deep to be sent
            a, b = left.pop()
            if a is not b and (type(a) is not type(b) or a.fields != b.fields or len(a.parts) != len(b.parts)):
                return False
            if a is not b:
                left += zip(a.parts, b.parts, strict=True)
        return True

    def __hash__(self) -> int:
        return hash((type(self), len(self.parts)))

    def as_part(self) -> Canvas[Any]:
        """Return the canvas that takes its place when it becomes part of another."""
        return self

    @property
    def fields(self) -> tuple[Any, ...]:
        """All that two canvases must have equal, except their parts."""
        return (self.when_failed,)

    def __or__(self, other: Canvas[Handle]) -> Canvas[Handle]:
        """Return the chain of both. After a group `other` is a chord's body; after a chord it extends the body."""
        following = part_or_none(other)
        if following is None:
            return NotImplemented
        from .composites import chained  # noqa: PLC0415

        return chained((self, following))

    def __invert__(self) -> Coroutine[Any, Any, Any]:
        """Send it and wait for its value: `await (~add.s(2, 2))`."""
        expect_loop("canvas.sync.delay().get()")

        async def value() -> Any:
            return await cast(Any, await self.apply_async())

        return value()

    def __getitem__(self, name: str) -> Any:
        """Return what a signature of Celery's, which is a dict, has under this name; `dict(canvas)` has all of it."""
        from .serialized import as_form  # noqa: PLC0415

        return as_form(self)[name]

    def keys(self) -> Iterable[str]:
        """Return the names in `dict(canvas)`, from which `signature` makes an equal canvas."""
        from .serialized import as_form  # noqa: PLC0415

        return as_form(self).keys()

    @staticmethod
    def from_dict(form: Mapping[str, Any], app: App[Sender] | None = None) -> Canvas[Any]:
        """Return the canvas that `dict(canvas)` was made from; like `signature`."""
        from .serialized import as_canvas  # noqa: PLC0415

        return as_canvas(form, app)

    def freeze(self) -> Self:
        """Return a copy with the ids of all its calls and groups fixed, so that they are known before it is sent.

        Raises:
            CallError: two calls in it have the same id, or it is nested too deep.
        """
        from .structure import frozen  # noqa: PLC0415

        return cast(Self, frozen(self))

    def set(self, *, immutable: bool | None = None, **options: Any) -> Self:
        """Return a copy with further options of the call. None leaves an option as it is; callbacks are added."""
        changed = self.clone(**options)
        return changed if immutable is None else changed.set_immutable(immutable)

    def on_error(self, callback: Canvas[Any]) -> Self:
        """Like `link_error`, with one callback."""
        return self.link_error(callback)

    def allow_failure(self, what: WhenFailed) -> Self:
        """Return a copy that sets the effect of its failure on its group or chain.

        "fail" (the default): the group or chain fails too. "continue": the exception takes the place of the value.
        "skip": the step is left out. The group's list is shorter; the chain goes on with the previous step's value.
        """
        if what not in _WHEN_FAILED:
            raise InvalidOption(f"allow_failure must be one of {', '.join(map(repr, _WHEN_FAILED))}, not {what!r}")
        return cast(Self, replace(cast(Any, self), when_failed=what))

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **stamps: Any) -> Self:
        """Return a copy with labels on all its calls and callbacks: `stamps`, and those that `visitor` returns.

            workflow.stamp(customer=7)

        Tasks read them as `self.request.stamps`, each a list of values; `app.admin.revoke(stamps=...)` revokes by them.
        They replace earlier stamps of the same names. With `append_stamps` the new values come before the earlier ones.

        Raises:
            InvalidOption: a stamp has an impossible name.
        """
        from .stamping import stamped  # noqa: PLC0415

        return stamped(self, visitor, stamps, append=append_stamps)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Like `delay`."""
        return self.apply_async(args, kwargs)

    def delay(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Handle_co]:
        """Send it, with further arguments for its first tasks. On return the broker has accepted it."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Coroutine[Any, Any, Handle_co]:
        """Send it, with further arguments and options.

        Raises:
            CallError: it can't be sent like this; no message was sent. Or no event loop runs here: use `.sync`.
            PublishTimeout: the broker did not accept it in time.
        """
        expect_loop("the same with .sync before .delay or .apply_async")
        return self._sender().send_workflow(self.clone(args, kwargs, **options))

    async def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> Handle_co:
        """Run all of it in this process, step after step, by the rules of a worker; see `Task.apply`.

        The returned result has ended: an `EagerResult`, or a `GroupResult` of these. `throw` raises its exception after
        all steps have run. Failures of callbacks are logged.

        Raises:
            CallError: it can't run like this; no step ran.
        """
        check_options_here(shown(self), options)
        return await self._sender().apply_workflow(self.clone(args, kwargs, **options), throw=throw)

    def graph(self) -> Graph:
        """Return its graph: `print(canvas.graph().text())`."""
        from .drawn import graph_of  # noqa: PLC0415

        return graph_of(self)

    @property
    def sync(self) -> SyncCanvas[Handle_co]:
        """Its calling API for code without a loop: `canvas.sync.delay().get(timeout=3)`."""
        return SyncCanvas(self, self._sender().bridge)

    def _sender(self) -> Sender:
        sender = sender_of(self) or _running_sender() or next(iter(_default_sender), None)
        if sender is None:
            raise CallError(f"{self!r} belongs to no app: create an AioTQ first")
        return sender


@value(eq=False)
class Signature(Canvas[AsyncResult[R_co]]):
    """Describes one call: a task's name with arguments and options.

        add.s(2, 2)                    # add(2, 2)
        await add.s(2).delay(8)        # add(8, 2): arguments given later come first
        add.s(2, 2) | mul.s(8)         # mul(add(2, 2), 8)

    An `immutable` signature (`si`) takes no further arguments. Calling a signature calls the task in this process, like
    calling the task itself.
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    immutable: bool = False
    mode: Mode = "once"
    when_failed: WhenFailed = "fail"
    sender: Sender | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        return self.text()

    def text(self, depth: int = 0) -> str:
        if self.mode != "once":
            return f"[{self.task}({'*' * (self.mode == 'starmap')}x) for x in {', '.join(map(repr, self.args))}]"
        return self.called_with([repr(argument) for argument in self.args])

    def called_with(self, args: Iterable[str]) -> str:
        """Return the text of a call with these arguments and its own keyword arguments."""
        arguments = [*args, *(f"{name}={argument!r}" for name, argument in self.kwargs.items())]
        return f"{self.task}({', '.join(arguments)})"

    @property
    def fields(self) -> tuple[Any, ...]:
        return (self.task, self.args, self.kwargs, self.options, self.immutable, self.mode, self.when_failed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the app out: an unpickled signature belongs to the app of the process that unpickles it."""
        return type(self), self.fields

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return replace(
            self,
            args=copy.deepcopy(self.args, memo),
            kwargs=copy.deepcopy(self.kwargs, memo),
            options=copy.deepcopy(self.options, memo),
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the task in this process, with further arguments."""
        whole = self.clone(args, kwargs)
        if self.mode != "once":
            raise CallError(f"{self!r} is called item by item: send it, or use apply()")
        return self._sender().find_task(self.task)(*whole.args, **whole.kwargs)

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return ()

    @property
    def id(self) -> str | None:
        """The id that its call will have, if it is fixed already."""
        return self.options.get("task_id")

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        options = said(options)
        merged = {**self.options, **options} if options else self.options
        for option in ("link", "link_error"):
            if option in options:
                merged = {**merged, option: self._with_callbacks(option, as_callbacks(option, options[option]))}
        if self.immutable or not (args or kwargs):
            return self if merged is self.options else replace(self, options=merged)
        return replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})}, options=merged)

    def link(self, *callbacks: Canvas[Any]) -> Self:
        return self._linked("link", callbacks)

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return self._linked("link_error", callbacks)

    def set_immutable(self, immutable: bool) -> Self:
        return replace(self, immutable=immutable)

    def _linked(self, option: str, callbacks: Sequence[Canvas[Any]]) -> Self:
        added = self._with_callbacks(option, as_callbacks(option, callbacks))
        return replace(self, options={**self.options, option: added})

    def _with_callbacks(self, option: str, callbacks: Sequence[Canvas[Any]]) -> list[Canvas[Any]]:
        before = as_callbacks(option, self.options.get(option))
        return [*before, *(callback for callback in callbacks if callback not in before)]


def as_callbacks(option: str, given: object) -> list[Canvas[Any]]:
    """Return the callbacks `given` for `option`, one or many, as a list.

    Raises:
        InvalidOption: one of them is not a signature.
    """
    if given is None:
        return []
    callbacks: list[Any] = list(cast("list[Any]", given)) if isinstance(given, (list, tuple)) else [given]
    found: list[Canvas[Any]] = []
    for callback in callbacks:
        part = part_or_none(callback)
        if part is None:
            raise InvalidOption(f"option {option} must be a signature or a list of them, not {callback!r}")
        found.append(part)
    return found


def part_or_none(given: object) -> Canvas[Any] | None:
    """Return `given` as a canvas: one, the dict of one, or a task, which is called without arguments; None if not."""
    if isinstance(given, Canvas):
        return cast("Canvas[Any]", given).as_part()
    if isinstance(given, (dict, Mapping)):
        return Canvas.from_dict(cast("Mapping[str, Any]", given))
    make: Any = getattr(given, "s", None)
    made: object = make() if callable(make) and hasattr(given, "apply_async") else None
    return cast("Canvas[Any]", made) if isinstance(made, Canvas) else None


def sender_of(canvas: Canvas[Any]) -> Sender | None:
    """Return what sends `canvas`, if it was not made of names alone."""
    left: list[Canvas[Any]] = [canvas]
    while left:  # no recursion: the canvas may be nested too deep to be sent
        part = left.pop()
        if isinstance(part, Signature) and (sender := cast("Signature[Any]", part).sender) is not None:
            return sender
        left += reversed(part.parts)
    return None


def _running_sender() -> Sender | None:
    """Return the core of the app whose task runs here."""
    task: Any = running_request.get().runner
    return None if task is None else core_of(task)
