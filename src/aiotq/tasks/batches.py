"""Batches: calls of one task that are gathered in a worker and run as one, each with an end of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar, Unpack, cast, get_args, overload

from ..core.aio import start
from ..core.hints import hints_of
from ..core.values import shown
from ..exceptions import BatchErrors, CallError, InvalidOption
from .registry import TaskDeclaration, TaskRegistry
from .request import Slot
from .running import current_request, gives_coroutine
from .task import CoroutineTask

T = TypeVar("T")
R = TypeVar("R")

#: Options that are about single calls.
_REFUSED: Final = ("bind", "run", "max_concurrency", "transactional", "stream")
#: Seconds that a call may wait for others.
_LONGEST: Final = 86_400.0
_NOTHING: Final = inspect.Parameter.empty


class BatchTask(CoroutineTask[[T], R]):
    """A task whose calls are run together: `@app.batch`."""

    @property
    def batch_function(self) -> Callable[[list[T]], Coroutine[Any, Any, Sequence[R | Exception] | None]]:
        """The function that gets a list."""
        function: Callable[[list[T]], Coroutine[Any, Any, Sequence[R | Exception] | None]] = cast("Any", self.fn).whole
        return function


class BatchDecorator(Protocol):
    """The type of `app.batch(...)`: from a function of a list to the task of one item."""

    @overload
    def __call__(self, fn: Callable[[list[T]], Coroutine[Any, Any, None]], /) -> BatchTask[T, None]: ...
    @overload
    def __call__(self, fn: Callable[[list[T]], Coroutine[Any, Any, Sequence[R | Exception]]], /) -> BatchTask[T, R]: ...
    def __call__(self, fn: Any, /) -> Any: ...


class Batching:
    """What makes batch tasks of an app."""

    def __init__(self, registry: TaskRegistry) -> None:
        self._registry = registry

    def batch(self, *, size: int, within: float, **options: Unpack[TaskDeclaration]) -> BatchDecorator:
        """Make a function of a list a task of one item, whose calls are run together.

            @app.batch(size=100, within=2.0)
            async def index(documents: list[Document]) -> list[int]: ...

            await index.delay(document)

        A worker calls it with what `size` calls were given, or with what came within `within` seconds of the first. It
        returns what each call comes to, in that order (an exception: that call raises it), or None for all.

        Raises:
            InvalidOption: an option can't be so, or is about single calls; the function takes no list.
        """
        if type(size) is not int or size < 1:
            raise InvalidOption(f"batch option size must be a whole number, 1 or more, not {size!r}")
        if type(within) not in {int, float} or not 0 <= within <= _LONGEST:
            raise InvalidOption(f"batch option within must be seconds, 0 to a day, not {within!r}")
        for option in _REFUSED:
            if option in options:
                raise InvalidOption(f"batch option {option}: it is about single calls, and a batch runs many as one")

        def register(fn: Any) -> Any:
            base: Any = options.get("base") or self._registry.task_cls or BatchTask
            if isinstance(base, type) and not issubclass(base, BatchTask):
                kinds: Any = (base, BatchTask)
                base = type(base.__name__, kinds, {"__module__": base.__module__, "__doc__": base.__doc__})
            register_one: Any = self._registry.task
            return register_one(**{**options, "base": base})(_one_of(fn, size, within))

        return cast(BatchDecorator, register)


def _one_of(fn: Callable[..., Any], size: int, within: float) -> Callable[..., Any]:
    """Return a function of one item whose calls are gathered for `fn`."""
    if not gives_coroutine(fn):
        raise InvalidOption(f"batch {fn!r} must be an async def: it runs on the loop, for many calls at once")
    parameters = list(inspect.signature(fn).parameters.values())
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidOption(f"batch {fn!r} must have one parameter, the list of what its calls were given")
    gathering = _Gathering(fn, size, within)

    async def one(item: Any, /) -> Any:
        return await gathering.run(item)

    made = cast("Any", one)
    made.whole = made.__wrapped__ = fn
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(one, name, getattr(fn, name, None))
    hints = hints_of(fn)
    given, returned = _of_list(hints.get(parameters[0].name)), _of_list(hints.get("return"))
    made.__annotations__ = {
        name: hint for name, hint in (("item", given), ("return", returned)) if hint is not _NOTHING
    }
    item_alone = inspect.Parameter("item", inspect.Parameter.POSITIONAL_ONLY, annotation=given)
    made.__signature__ = inspect.Signature([item_alone], return_annotation=returned)
    return one


def _of_list(hint: Any) -> Any:
    """Return what a list that is annotated so has in it; `_NOTHING` if that is not said."""
    of = get_args(hint)
    return of[0] if len(of) == 1 else _NOTHING


class _Member:
    """A call that is, or will be, in a batch."""

    def __init__(self, item: Any, slot: Slot) -> None:
        self.item = item
        self.slot = slot
        self.context = contextvars.copy_context()
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None


class _Batch:
    """Calls that are run together."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self.members = members
        self.running: asyncio.Task[None] | None = None

    def left(self) -> None:
        """Cancel the function when nobody waits for it any more."""
        if self.running is not None and all(member.ended.done() for member in self.members):
            self.running.cancel()


class _Waiting:
    """The calls that wait in one loop for others to come."""

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.timer: asyncio.TimerHandle | None = None

    def take(self) -> list[_Member]:
        """Return all; none waits then."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None
        members, self.members = self.members, []
        return members


class _Gathering:
    """Gathers the calls of one task, each with those of its loop."""

    def __init__(self, fn: Callable[..., Any], size: int, within: float) -> None:
        self._fn = fn
        self._size = size
        self._within = within
        self._waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = weakref.WeakKeyDictionary()

    async def run(self, item: Any) -> Any:
        """Return what the function returns for `item`, or raise what it raises for it."""
        request = current_request()
        if request.called_directly or request.is_eager or request.mode != "once" or request.slot is None:
            (value,) = _values(await self._fn([item]), 1)
            if isinstance(value, BaseException):
                raise value
            return value
        waiting = self._waiting.setdefault(asyncio.get_running_loop(), _Waiting())
        member = _Member(item, request.slot)
        member.slot.lend()  # others are to come; it does not take it back, unless it is the first of its batch
        waiting.members.append(member)
        if len(waiting.members) >= self._size:
            self._begin(waiting)
        elif waiting.timer is None:
            waiting.timer = asyncio.get_running_loop().call_later(self._within, self._begin, waiting)
        try:
            return await member.ended
        finally:
            if member.batch is not None:
                member.batch.left()
            else:  # it was cancelled before others came
                waiting.members.remove(member)
                if not waiting.members:
                    waiting.take()

    def _begin(self, waiting: _Waiting) -> None:
        members = waiting.take()
        batch = _Batch(members)
        for member in members:
            member.batch = batch
        batch.running = start(self._call(batch), name="aiotq.batch", context=members[0].context)

    async def _call(self, batch: _Batch) -> None:
        """Call the function, and give each member what is its own."""
        await batch.members[0].slot.take_back()  # held until that run ends: it bounds how many batches there are
        members = [member for member in batch.members if not member.ended.done()]
        try:
            given = await self._fn([member.item for member in members]) if members else None
            values = _values(given, len(members))
        except BatchErrors as exc:
            values = [exc.errors.get(place) for place in range(len(members))]
        except BaseException as exc:  # SystemExit in a batch must not end the loop: it is for the runs
            values = [exc] * len(members)
        for member, value in zip(members, values, strict=True):
            if member.ended.done():
                continue
            if isinstance(value, BaseException):
                member.ended.set_exception(_raisable(value))
            else:
                member.ended.set_result(value)


def _values(given: Any, count: int) -> Sequence[Any]:
    """Return what a function that was given `count` items returned, as one value for each.

    Raises:
        CallError: it is something else.
    """
    if given is None:
        return [None] * count
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise CallError(f"a batch returns a list, with a value for each call, or None; not {shown(given)}")
    values = cast("Sequence[Any]", given)
    if len(values) != count:
        raise CallError(f"a batch returned {len(values)} values for {count} calls: it needs one for each")
    return values


def _raisable(error: BaseException) -> BaseException:
    """Return what a future can raise in place of `error`."""
    if not isinstance(error, StopIteration):
        return error
    found = RuntimeError(f"a batch raised {error!r}")
    found.__cause__ = error
    return found
