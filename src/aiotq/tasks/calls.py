"""Other ways to call a task: with options, and from code without a loop."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, Unpack

from ..calling.arguments import given_arguments
from ..canvas.signature import Canvas, Signature
from ..core.inside import core_of
from ..core.sync import expect_loop
from ..core.values import shown
from ..results import handle
from ..results.record_names import KEPT
from ..results.sync_result import SyncResult
from .options import CallOptions, said

if TYPE_CHECKING:
    from .task import Task

P = ParamSpec("P")
R = TypeVar("R")


class CallHere(NamedTuple):
    """A call that runs where it is made, as though it had been retried `retries` times."""

    task: Task[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: CallOptions
    throw: bool | None
    retries: int


class Configured(Generic[P, R]):
    """A task with calling options (`task.options(...)`)."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self._task = task
        self._options = options

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, handle.AsyncResult[R]]:
        """As `Task.delay`, with the options."""
        expect_loop(f"{self._task.__name__}.options(…).sync.delay(…)")
        return self._task.apply_async(args, kwargs, **self._options)

    def s(self, /, *args: Any, **kwargs: Any) -> Signature[R]:
        """As `Task.s`, with the options."""
        return self._task.signature(args, kwargs, **self._options)

    @property
    def sync(self) -> SyncCalls[P, R]:
        """These calls for code without a loop."""
        return SyncCalls(self._task, self._options)


class SyncCalls(Generic[P, R]):
    """A task's calling API for code without a loop."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Task[P, R], options: CallOptions | None = None) -> None:
        self._task = task
        self._options: CallOptions = options or {}

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> SyncResult[R]:
        """As `Task.delay`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> SyncResult[R]:
        """As `Task.apply_async`."""
        merged: CallOptions = {**self._options, **said(options)}
        args, kwargs = given_arguments(self._task.name, args, kwargs)
        send: Any = partial(self._task.apply_async, args, kwargs, **merged)
        result: handle.AsyncResult[R] = core_of(self._task).bridge.run(send)
        return result.sync

    def apply(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        retries: int = 0,
        **options: Unpack[CallOptions],
    ) -> SyncResult[R]:
        """As `Task.apply`."""
        merged: CallOptions = {**self._options, **said(options)}
        run: Any = partial(self._task.apply, args, kwargs, throw=throw, retries=retries, **merged)
        result: handle.AsyncResult[R] = core_of(self._task).bridge.run(run)
        return result.sync

    def add_to_chord(self, canvas: Canvas[Any]) -> SyncResult[Any]:
        """As `Task.add_to_chord`, in a task that is a plain function."""
        return core_of(self._task).bridge.run(self._task.add_to_chord, canvas).sync

    def update_state(self, state: str, meta: Any = None, *, task_id: str | None = None) -> None:
        """As `Task.update_state`, in a task that runs in a thread."""
        core_of(self._task).bridge.run(partial(self._task.update_state, task_id=task_id), state, meta)

    def checkpoint(self, state: Any, *, expires: float = KEPT) -> None:
        """As `Task.checkpoint`, in a task that runs in a thread."""
        core_of(self._task).bridge.run(partial(self._task.checkpoint, expires=expires), state)

    def restored(self, default: Any = None) -> Any:
        """As `Task.restored`, in a task that runs in a thread."""
        return core_of(self._task).bridge.run(self._task.restored, default)


def sync_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the text of the call that code without a loop makes."""
    given = [shown(each) for each in args] + [f"{key}={shown(each)}" for key, each in kwargs.items()]
    return f"{name}.sync.delay({', '.join(given)})"
