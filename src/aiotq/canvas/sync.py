"""The calling API of canvases for code without a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..core.sync import Bridge
from ..results.handle import AsyncResult
from ..results.sets import GroupResult
from ..results.sync_result import SyncGroupResult, SyncResult

if TYPE_CHECKING:
    from .signature import Canvas

R = TypeVar("R")
Handle = TypeVar("Handle")


class SyncCanvas(Generic[Handle]):
    """A canvas for code without a loop: `(add.s(2, 2) | mul.s(8)).sync.delay().get(timeout=3)`."""

    __slots__ = ("_bridge", "_canvas")

    def __init__(self, canvas: Canvas[Handle], bridge: Bridge) -> None:
        self._canvas = canvas
        self._bridge = bridge

    @overload
    def delay(self: SyncCanvas[AsyncResult[R]], /, *args: Any, **kwargs: Any) -> SyncResult[R]: ...
    @overload
    def delay(self: SyncCanvas[GroupResult[R]], /, *args: Any, **kwargs: Any) -> SyncGroupResult[R]: ...
    def delay(self, /, *args: Any, **kwargs: Any) -> Any:
        """As `Canvas.delay`."""
        return self._send(args, kwargs, {})

    @overload
    def apply_async(
        self: SyncCanvas[AsyncResult[R]],
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        **options: Any,
    ) -> SyncResult[R]: ...
    @overload
    def apply_async(
        self: SyncCanvas[GroupResult[R]],
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        **options: Any,
    ) -> SyncGroupResult[R]: ...
    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """As `Canvas.apply_async`."""
        return self._send(args, kwargs, options)

    @overload
    def apply(
        self: SyncCanvas[AsyncResult[R]],
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        throw: bool | None = ...,
        **options: Any,
    ) -> SyncResult[R]: ...
    @overload
    def apply(
        self: SyncCanvas[GroupResult[R]],
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        throw: bool | None = ...,
        **options: Any,
    ) -> SyncGroupResult[R]: ...
    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> Any:
        """As `Canvas.apply`."""
        canvas: Any = self._canvas
        return self._bridge.run(partial(canvas.apply, args, kwargs, throw=throw, **options)).sync

    def _send(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        canvas: Any = self._canvas
        return self._bridge.run(partial(canvas.apply_async, args, kwargs, **options)).sync
