"""Results for code without a loop: `SyncResult` of a single call, `SyncGroupResult` of a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from ..core.sync import Bridge
from .get_options import GetOptions, check_options

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .handle import AsyncResult, OnMessage, Update
    from .sets import GroupResult

R_co = TypeVar("R_co", covariant=True)


class SyncResult(Generic[R_co]):
    """An `AsyncResult` for code without a loop: the same methods, as plain functions."""

    def __init__(self, result: AsyncResult[R_co], bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge
        self.id = result.id

    def __repr__(self) -> str:
        return f"<SyncResult: {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def parent(self) -> SyncResult[Any] | SyncGroupResult[Any] | None:
        """The result of the step before it in its chain."""
        parent = self._result.parent
        return None if parent is None else parent.sync

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
        check_options(options)
        callback = options.pop("callback", None)

        async def get() -> R_co | BaseException:
            return await self._result.get(timeout, propagate=propagate, on_message=on_message, **options)

        value = self._bridge.run(get)
        if callback is not None:
            callback(self.id, value)
        return value

    def graph(self) -> Graph:
        return self._bridge.run(self._result.graph)

    def look(self) -> Update:
        return self._bridge.run(self._result.look)

    def state(self) -> str:
        return self._bridge.run(self._result.state)

    def ready(self) -> bool:
        return self._bridge.run(self._result.ready)

    def successful(self) -> bool:
        return self._bridge.run(self._result.successful)

    def failed(self) -> bool:
        return self._bridge.run(self._result.failed)

    def info(self) -> Any:
        return self._bridge.run(self._result.info)

    def traceback(self) -> str | None:
        return self._bridge.run(self._result.traceback)

    def date_done(self) -> datetime | None:
        return self._bridge.run(self._result.date_done)

    def children(self) -> list[SyncResult[Any]]:
        return [child.sync for child in self._bridge.run(self._result.children)]

    def name(self) -> str | None:
        return self._bridge.run(self._result.name)

    def worker(self) -> str | None:
        return self._bridge.run(self._result.worker)

    def args(self) -> tuple[Any, ...] | None:
        return self._bridge.run(self._result.args)

    def kwargs(self) -> Mapping[str, Any] | None:
        return self._bridge.run(self._result.kwargs)

    def retries(self) -> int | None:
        return self._bridge.run(self._result.retries)

    def queue(self) -> str | None:
        return self._bridge.run(self._result.queue)

    def stamps(self) -> Mapping[str, Sequence[Any]] | None:
        return self._bridge.run(self._result.stamps)

    def forget(self) -> None:
        self._bridge.run(self._result.forget)

    def revoke(self, *, terminate: bool = False) -> None:
        async def revoke() -> None:
            await self._result.revoke(terminate=terminate)

        self._bridge.run(revoke)


class SyncGroupResult(Generic[R_co]):
    """A `GroupResult` for code without a loop: the same methods, as plain functions."""

    def __init__(self, result: GroupResult[R_co], bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge
        self.id = result.id

    def __repr__(self) -> str:
        return f"<SyncGroupResult: {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncGroupResult) and (self.id, self.results) == (other.id, other.results)

    def __hash__(self) -> int:
        return hash(self.id)

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
    def parent(self) -> SyncResult[Any] | SyncGroupResult[Any] | None:
        """The result of the step before it in its chain."""
        parent = self._result.parent
        return None if parent is None else parent.sync

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
        """Like `GroupResult.get`; `callback` is a plain function, called in this thread, in the order of the tasks."""
        check_options(options)
        callback = options.pop("callback", None)

        async def get() -> list[R_co] | list[R_co | BaseException]:
            return await self._result.get(timeout, propagate=propagate, **options)

        values = self._bridge.run(get)
        if callback is not None:
            for result in self._result.members:
                callback(result.id, result.seen(propagate=False))
        return values

    join = get

    def graph(self) -> Graph:
        return self._bridge.run(self._result.graph)

    def completed_count(self) -> int:
        return self._bridge.run(self._result.completed_count)

    def ready(self) -> bool:
        return self._bridge.run(self._result.ready)

    def successful(self) -> bool:
        return self._bridge.run(self._result.successful)

    def failed(self) -> bool:
        return self._bridge.run(self._result.failed)

    def waiting(self) -> bool:
        return self._bridge.run(self._result.waiting)

    def revoke(self, *, terminate: bool = False) -> None:
        async def revoke() -> None:
            await self._result.revoke(terminate=terminate)

        self._bridge.run(revoke)

    def forget(self) -> None:
        self._bridge.run(self._result.forget)

    def save(self) -> None:
        self._bridge.run(self._result.save)
