"""Signatures, chains, groups and chords: descriptions of calls, as values that are never changed, only replaced.

Options of a composite are passed on at once to the signatures that they apply to, so only signatures have options.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, Protocol, Self, TypeVar, cast

from ..core.inside import core_of
from ..core.settings import Settings
from ..core.sync import Bridge, expect_loop
from ..core.values import replace, shown, value
from ..exceptions import CallError, InvalidOption
from ..results.handle import AsyncResult
from ..results.sets import GroupResult
from ..tasks.options import check_options_here
from ..tasks.request import running_request
from .sync import SyncCanvas

if TYPE_CHECKING:
    from ..app import AioTQ
    from ..graph.graph import Graph
    from .drawn import Form
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
#: Options of a chord that apply to its header only, and to its body only; all others apply to both.
_OF_HEADER: Final = frozenset({"countdown", "eta"})
_OF_LAST: Final = frozenset({"task_id", "link"})


class Sender(Protocol):
    """What a signature needs from the core of its app."""

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


class Canvas(abc.ABC, Generic[Handle_co]):
    """A signature, chain, group or chord: it can be sent, and composed with others."""

    __slots__ = ()
    form: ClassVar[Form]

    when_failed: WhenFailed

    @property
    def app(self) -> AioTQ | None:
        """The app that sends it; None if it was made from names alone."""
        sender = sender_of(self)
        return None if sender is None else sender.app

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

    def __or__(self, other: Canvas[Handle]) -> Canvas[Handle]:
        """Return the chain of both. After a group `other` is a chord's body; after a chord it extends the body."""
        if not isinstance(cast(object, other), Canvas):
            return NotImplemented
        return cast("Canvas[Handle]", chained((self, other)))

    def set(self, **options: Any) -> Self:
        """Return a copy with further options of the call."""
        return self.clone(**options)

    def on_error(self, callback: Canvas[Any]) -> Self:
        """Like `link_error`, with one callback."""
        return self.link_error(callback)

    def on_failure(self, what: WhenFailed) -> Self:
        """Return a copy that sets the effect of its failure on its group or chain.

        "fail" (the default): the group or chain fails too. "continue": the exception takes the place of the value.
        "skip": the step is left out. The group's list is shorter; the chain goes on with the previous step's value.
        """
        if what not in _WHEN_FAILED:
            raise InvalidOption(f"on_failure must be one of {', '.join(map(repr, _WHEN_FAILED))}, not {what!r}")
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
        """Send it, with further arguments for its first tasks. On return the broker has accepted it (P1)."""
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


@value
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
    form: ClassVar[Form] = "call"

    def __repr__(self) -> str:
        if self.mode != "once":
            return f"[{self.task}({'*' * (self.mode == 'starmap')}x) for x in {', '.join(map(repr, self.args))}]"
        arguments = [repr(argument) for argument in self.args]
        arguments += [f"{name}={argument!r}" for name, argument in self.kwargs.items()]
        return f"{self.task}({', '.join(arguments)})"

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
        merged = {**self.options, **options} if options else self.options
        for option in ("link", "link_error"):
            if option in options:
                merged = {**merged, option: as_callbacks(option, options[option])}
        if self.immutable or not (args or kwargs):
            return self if merged is self.options else replace(self, options=merged)
        return replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})}, options=merged)

    def link(self, *callbacks: Canvas[Any]) -> Self:
        return self._linked("link", callbacks)

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return self._linked("link_error", callbacks)

    def _linked(self, option: str, callbacks: Sequence[Canvas[Any]]) -> Self:
        before = as_callbacks(option, self.options.get(option))
        new = [callback for callback in as_callbacks(option, callbacks) if callback not in before]
        return replace(self, options={**self.options, option: [*before, *new]})


@value
class Chain(Canvas[Handle_co]):
    """Steps, each called with the value of the step before; made by `chain` and `|`.

    `tasks` has no chains (except those with an `on_failure` of their own), and no step after a group: that is a chord.
    """

    form: ClassVar[Form] = "chain"
    tasks: tuple[Canvas[Any], ...]
    when_failed: WhenFailed = "fail"

    def __repr__(self) -> str:
        text = " | ".join(map(repr, self.tasks)) or "chain()"
        return text if self.when_failed == "fail" else f"({text})"

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.tasks

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments and options for its first task; `task_id` and `link` go to the last one."""
        if not (args or kwargs or options):
            return self
        self._refuse_empty()
        of_last = {option: options.pop(option) for option in _OF_LAST if option in options}
        errbacks = options.pop("link_error", None)
        first, *others = self.tasks
        steps = [first.clone(args, kwargs, **options), *others]
        if of_last:
            steps[-1] = steps[-1].clone(**of_last)
        changed = replace(self, tasks=tuple(steps))
        return changed if errbacks is None else changed.link_error(*as_callbacks("link_error", errbacks))

    def link(self, *callbacks: Canvas[Any]) -> Self:
        self._refuse_empty()
        return replace(self, tasks=(*self.tasks[:-1], self.tasks[-1].link(*callbacks)))

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, tasks=tuple(step.link_error(*callbacks) for step in self.tasks))

    def _refuse_empty(self) -> None:
        if not self.tasks:
            raise CallError("an empty chain has nothing to call: leave it out")


@value
class Group(Canvas[GroupResult[R_co]]):
    """Tasks and workflows that run at the same time; made by `group`. Its value is the list of their values."""

    form: ClassVar[Form] = "group"
    tasks: tuple[Canvas[Any], ...]
    id: str | None = None
    when_failed: WhenFailed = "fail"  #: always: a group passes `on_failure` on to its tasks

    def __repr__(self) -> str:
        return f"group({list(self.tasks)!r})"

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.tasks

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments and options for each of its tasks; `task_id` is the group's own id."""
        if not (args or kwargs or options):
            return self
        group_id = options.pop("task_id", self.id)
        if "link" in options:
            self.link()
        return replace(self, tasks=tuple(task.clone(args, kwargs, **options) for task in self.tasks), id=group_id)

    def on_failure(self, what: WhenFailed) -> Self:
        """Return a copy with this for each of its tasks without an `on_failure` of its own."""
        return replace(
            self, tasks=tuple(task if task.when_failed != "fail" else task.on_failure(what) for task in self.tasks)
        )

    def link(self, *callbacks: Canvas[Any]) -> Self:
        """Refuse: a group has no single end.

        Raises:
            CallError: always.
        """
        raise CallError(f"{self!r} has no single end to link to: use group | task, or link its tasks")

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, tasks=tuple(task.link_error(*callbacks) for task in self.tasks))


@value
class Chunks(Group[R_co]):
    """Many calls of a task, several in each message; made by `Task.chunks`."""

    def __repr__(self) -> str:
        return f"group({list(self.tasks)!r})"

    def group(self) -> Group[R_co]:
        """Return it as a plain group."""
        return Group(self.tasks, self.id)


@value
class Chord(Canvas[Handle_co]):
    """A group (the header), and a body that is called once with the list of its values; made by `chord` and `|`."""

    form: ClassVar[Form] = "chord"
    header: Group[Any]
    body: Canvas[Handle_co]
    when_failed: WhenFailed = "fail"

    def __repr__(self) -> str:
        first, rest = (self.body.tasks[0], self.body.tasks[1:]) if isinstance(self.body, Chain) else (self.body, ())
        if isinstance(first, Signature):
            called = cast("Signature[Any]", first)
            text = f"%{replace(called, args=(list(self.header.tasks), *called.args))!r}"
        else:
            text = f"{self.header!r} | {first!r}"
        return " | ".join([text, *map(repr, rest)])

    @property
    def tasks(self) -> tuple[Canvas[Any], ...]:
        """The tasks of the header."""
        return self.header.tasks

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.header, self.body

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments for each task of its header.

        `task_id` and `link` go to the body, `countdown` and `eta` to the header, other options to both. `link_error`
        goes to the body, and to the header too if the setting `task_allow_error_cb_on_chord_header` is True.
        """
        if not (args or kwargs or options):
            return self
        errbacks = options.pop("link_error", None)
        of_header = {option: given for option, given in options.items() if option not in _OF_LAST}
        of_body = {option: given for option, given in options.items() if option not in _OF_HEADER}
        changed = replace(self, header=self.header.clone(args, kwargs, **of_header), body=self.body.clone(**of_body))
        return changed if errbacks is None else changed.link_error(*as_callbacks("link_error", errbacks))

    def link(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, body=self.body.link(*callbacks))

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        sender = sender_of(self)
        both = sender is not None and sender.conf.task_allow_error_cb_on_chord_header
        header = self.header.link_error(*callbacks) if both else self.header
        return replace(self, header=header, body=self.body.link_error(*callbacks))


def chained(steps: Iterable[Canvas[Any]]) -> Canvas[Any]:
    """Return the chain of `steps`; a single step is returned as it is."""
    flat: list[Canvas[Any]] = []
    for given in steps:
        for step in given.tasks if isinstance(given, Chain) and given.when_failed == "fail" else (given,):
            last = flat[-1] if flat else None
            if isinstance(last, Group):
                flat[-1] = Chord(cast("Group[Any]", last), step)
            elif isinstance(last, Chord) and last.when_failed == "fail":
                flat[-1] = replace(last, body=chained((last.body, step)))
            else:
                flat.append(step)
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


def as_callbacks(option: str, given: object) -> list[Canvas[Any]]:
    """Return the callbacks `given` for `option`, one or many, as a list.

    Raises:
        InvalidOption: one of them is not a signature.
    """
    if given is None:
        return []
    callbacks: list[Any] = list(cast("list[Any]", given)) if isinstance(given, (list, tuple)) else [given]
    for callback in callbacks:
        if not isinstance(callback, Canvas):
            raise InvalidOption(f"option {option} must be a signature or a list of them, not {callback!r}")
    return callbacks


def sender_of(canvas: Canvas[Any]) -> Sender | None:
    """Return what sends `canvas`, if it was not made of names alone."""
    if isinstance(canvas, Signature):
        return cast("Signature[Any]", canvas).sender
    return next((sender for part in canvas.parts if (sender := sender_of(part)) is not None), None)


def _running_sender() -> Sender | None:
    """Return the core of the app whose task runs here."""
    task: Any = running_request.get().runner
    return None if task is None else core_of(task)
