"""`SyncResult`: the result of a single call for code without a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ..core.sync import Bridge
from .get_options import refuse_options

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .handle import AsyncResult, OnMessage
    from .sets import SyncGroupResult

R_co = TypeVar("R_co", covariant=True)


class SyncResult(Generic[R_co]):
    """An `AsyncResult` for code without a loop: the same methods, as plain functions."""

    def __init__(self, result: AsyncResult[R_co], bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge
        self.id = result.id

    def __repr__(self) -> str:
        return f"<SyncResult: {self.id}>"

    @property
    def parent(self) -> SyncResult[Any] | SyncGroupResult[Any] | None:
        """The result of the step before it in its chain."""
        parent = self._result.parent
        return None if parent is None else parent.sync

    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., on_message: OnMessage | None = ...
    ) -> R_co: ...
    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: bool, on_message: OnMessage | None = ...
    ) -> R_co | BaseException: ...
    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
        **celery_options: object,
    ) -> R_co | BaseException:
        """Like `AsyncResult.get`."""
        refuse_options(celery_options)

        async def get() -> R_co | BaseException:
            return await self._result.get(timeout, propagate=propagate, on_message=on_message)

        return self._bridge.run(get)

    def graph(self) -> Graph:
        return self._bridge.run(self._result.graph)

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
