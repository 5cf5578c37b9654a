"""The handlers of a task class, which run around its runs (as in Celery), and the error information they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..core.values import value


@value
class ExceptionInfo:
    """The error of a failed run, passed to handlers as `einfo`."""

    exception: BaseException
    traceback: str

    @property
    def type(self) -> type[BaseException]:
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback


class Handlers:
    """Methods for a task class to override; each may be a plain function or a coroutine.

    They run in the worker after the task and before its outcome is committed. If the worker dies in between, they run
    again with the task. An exception in a handler is logged; one in `before_start` fails the task.
    """

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Called before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Called when the task has returned `retval`."""

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the task will be retried because of `exc`."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the task has failed with `exc`."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> Any:
        """Called after each run, with the state that follows and the value or the exception."""

    @classmethod
    def on_bound(cls, app: Any) -> Any:
        """Called once, when a task of this class belongs to an app."""


NAMES: Final = ("before_start", "on_success", "on_retry", "on_failure", "after_return")


def overridden(kind: type[Handlers]) -> frozenset[str]:
    """Return the names of the handlers that `kind` has of its own: tasks without any pay nothing."""
    return frozenset(name for name in NAMES if getattr(kind, name) is not getattr(Handlers, name))
