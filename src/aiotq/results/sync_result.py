"""Results for code without a loop: plain methods, and attributes for what a coroutine asks for elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

from ..core.celery_names import SYNC_RESULT, knows
from ..core.sync import Bridge
from ..tasks.streams import Streamed
from .get_options import GetOptions, check_options

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .document import Update
    from .handle import AsyncResult, OnMessage
    from .progress import Progress
    from .sets import GroupResult, Results, ResultSet  # noqa: F401 (`ResultSet` is in a string: it has a base of its own)
    from .stream_reader import Start, SyncChunkStream

R_co = TypeVar("R_co", covariant=True)
Part = TypeVar("Part")
C = TypeVar("C")
Of_co = TypeVar("Of_co", bound="AsyncResult[Any] | Results[Any, Any]", covariant=True)
Step_co = TypeVar("Step_co", bound="AsyncResult[Any] | GroupResult[Any]", covariant=True)
Many_co = TypeVar("Many_co", bound="Results[Any, Any]", covariant=True)


class Seen(Generic[Part]):
    """One part of what `SyncResult.look` returns, as an attribute. It is asked for anew until the task has ended."""

    def __init__(self, part: Callable[[Update], Part]) -> None:
        self._part = part

    def __get__(self, result: SyncResult[Any] | None, kind: type[SyncResult[Any]]) -> Part:
        if result is None:  # of the class: for those that only look at it
            return cast(Part, self)
        return self._part(result.look())


class _Sync(Generic[Of_co]):
    """The base of results of one call and of many."""

    def __init__(self, result: Of_co, bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<Sync{repr(self._result).lstrip('<')}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sync) and bool(cast("_Sync[Any]", other)._result == self._result)

    def __hash__(self) -> int:
        return hash(self._result)

    def _ended(
        self,
        wait: Callable[..., Coroutine[Any, Any, BaseException | None]],
        timeout: float | None,
        propagate: bool,
        options: GetOptions,
        **more: Any,
    ) -> BaseException | None:
        """Wait; return what is to be raised. The callback in `options` is called after that, in this thread."""
        check_options(options)
        callback = options.pop("callback", None)
        error = self._bridge.run(partial(wait, timeout, propagate, options, **more))
        if callback is not None and error is None:
            for result in self._leaves():
                callback(result.id, result.seen())
        return error

    def _leaves(self) -> Sequence[AsyncResult[Any]]:
        raise NotImplementedError

    def ready(self) -> bool:
        return self._bridge.run(self._result.ready)

    def successful(self) -> bool:
        return self._bridge.run(self._result.successful)

    def failed(self) -> bool:
        return self._bridge.run(self._result.failed)

    def forget(self) -> None:
        self._bridge.run(self._result.forget)

    def revoke(self, *, terminate: bool = False) -> None:
        self._bridge.run(partial(self._result.revoke, terminate=terminate))


class _SyncStep(_Sync[Step_co]):
    """The base of results that can be steps of a workflow."""

    @property
    def id(self) -> str:
        """The id of the call, or of the group."""
        return self._result.id

    @property
    def parent(self) -> SyncResult[Any] | SyncGroupResult[Any] | None:
        """The result of the step before it in its chain."""
        parent = self._result.parent
        return None if parent is None else parent.sync

    @property
    def graph(self) -> Graph:
        """Its workflow, with the states that the tasks have now."""
        return self._bridge.run(self._result.graph)

    def progress(self) -> Iterator[Progress]:
        return self._bridge.each(self._result.progress())

    def as_tuple(self) -> tuple[Any, ...]:
        return self._result.as_tuple()


@knows(SYNC_RESULT)
class SyncResult(_SyncStep["AsyncResult[R_co]"], Generic[R_co]):
    """An `AsyncResult` for code without a loop: what is awaited there is a plain call or an attribute here.

    result = add.sync.delay(2, 2)
    assert result.get(timeout=3) == 4
    assert result.state == "SUCCESS"
    """

    state = Seen(lambda now: now.state)
    info = Seen(lambda now: now.info)
    traceback = Seen(lambda now: now.traceback)
    date_done = Seen(lambda now: now.date_done)
    name = Seen(lambda now: now.name)
    worker = Seen(lambda now: now.worker)
    args = Seen(lambda now: now.args)
    kwargs = Seen(lambda now: now.kwargs)
    retries = Seen(lambda now: now.retries)
    queue = Seen(lambda now: now.queue)
    stamps = Seen(lambda now: now.stamps)

    @property
    def task_name(self) -> str | None:
        """The task's name, if the handle is of a call that was made here."""
        return self._result.task_name

    @property
    def is_eager(self) -> bool:
        """Whether the task ran where it was called."""
        return self._result.is_eager

    @property
    def is_known(self) -> bool:
        """Whether this handle has seen its task end."""
        return self._result.is_known

    @property
    def children(self) -> list[SyncResult[Any]]:
        """The results of the calls that the task made."""
        return [child.sync for child in self._bridge.run(self._result.children)]

    @overload
    def get(
        self,
        timeout: float | None = ...,
        *,
        propagate: Literal[True] = ...,
        on_message: OnMessage | None = ...,
        **options: Unpack[GetOptions],
    ) -> R_co: ...
    @overload
    def get(
        self,
        timeout: float | None = ...,
        *,
        propagate: bool,
        on_message: OnMessage | None = ...,
        **options: Unpack[GetOptions],
    ) -> R_co | BaseException: ...
    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
        **options: Unpack[GetOptions],
    ) -> R_co | BaseException:
        """Like `AsyncResult.get`; `callback` is a plain function, called in this thread."""
        __tracebackhide__ = True
        error = self._ended(self._result.awaited, timeout, propagate, options, on_message=on_message)
        if error is not None:
            raise error
        return self._result.seen()

    wait = get

    def look(self) -> Update:
        return self._bridge.run(self._result.look)

    def updates(self) -> Iterator[Update]:
        return self._bridge.each(self._result.updates())

    @overload
    def stream(
        self: SyncResult[Streamed[C]], start: Start = ..., *, after: str | None = ..., timeout: float | None = ...
    ) -> SyncChunkStream[C]: ...
    @overload
    def stream(
        self, start: Start = ..., *, after: str | None = ..., timeout: float | None = ...
    ) -> SyncChunkStream[Any]: ...
    def stream(
        self, start: Start = "start", *, after: str | None = None, timeout: float | None = None
    ) -> SyncChunkStream[Any]:
        return self._result.stream(start, after=after, timeout=timeout).in_sync(self._bridge)

    def _leaves(self) -> Sequence[AsyncResult[Any]]:
        return [self._result]


class _SyncMany(_Sync[Many_co], Generic[Many_co, R_co]):
    """The base of results of many calls."""

    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., **options: Unpack[GetOptions]
    ) -> list[R_co]: ...
    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: bool, **options: Unpack[GetOptions]
    ) -> list[R_co | BaseException]: ...
    def get(
        self, timeout: float | None = None, *, propagate: bool = True, **options: Unpack[GetOptions]
    ) -> list[R_co] | list[R_co | BaseException]:
        """Like `ResultSet.get`; `callback` is a plain function, called in this thread, in the order of the tasks."""
        __tracebackhide__ = True
        error = self._ended(self._result.awaited, timeout, propagate, options)
        if error is not None:
            raise error
        return self._result.values(propagate=propagate)

    join = get

    def wait(self, timeout: float | None = None, *, propagate: bool = False, **options: Unpack[GetOptions]) -> None:
        """Like `ResultSet.wait`; `callback` as for `get`."""
        __tracebackhide__ = True
        error = self._ended(self._result.awaited, timeout, propagate, options)
        if error is not None:
            raise error

    def as_completed(self) -> Iterator[SyncResult[Any]]:
        """Yield the result of each task when it has ended."""
        return (result.sync for result in self._bridge.each(self._result.as_completed()))

    def completed_count(self) -> int:
        return self._bridge.run(self._result.completed_count)

    def waiting(self) -> bool:
        return self._bridge.run(self._result.waiting)

    def states(self) -> list[str]:
        return self._bridge.run(self._result.states)

    def _leaves(self) -> Sequence[AsyncResult[Any]]:
        return self._result.leaves()


class SyncResultSet(_SyncMany["ResultSet[R_co]", R_co], Sequence[SyncResult[R_co]]):
    """A `ResultSet` for code without a loop: the same methods, as plain functions."""

    def __len__(self) -> int:
        return len(self._result)

    @property
    def results(self) -> list[SyncResult[R_co]]:
        """The results, in the order of the calls."""
        return list(self)

    @overload
    def __getitem__(self, index: int) -> SyncResult[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> SyncResultSet[R_co]: ...
    def __getitem__(self, index: int | slice) -> SyncResult[R_co] | SyncResultSet[R_co]:
        return self._result[index].sync


class SyncGroupResult(_SyncMany["GroupResult[R_co]", R_co], _SyncStep["GroupResult[R_co]"]):
    """A `GroupResult` for code without a loop: the same methods, as plain functions.

    One that was saved is read by `app.sync(GroupResult.restore, group_id, app)`.
    """

    def __len__(self) -> int:
        return len(self._result)

    def __iter__(self) -> Iterator[SyncResult[Any] | SyncGroupResult[Any]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> SyncResult[Any] | SyncGroupResult[Any]:
        return self._result[index].sync

    @property
    def results(self) -> list[SyncResult[Any] | SyncGroupResult[Any]]:
        """The members' results."""
        return [member.sync for member in self._result]

    @property
    def children(self) -> list[SyncResult[Any] | SyncGroupResult[Any]]:
        """The members' results."""
        return self.results

    @property
    def members(self) -> SyncResultSet[Any]:
        """The results of all its tasks in order, including those of nested groups."""
        return self._result.members.sync

    def save(self) -> None:
        self._bridge.run(self._result.save)
