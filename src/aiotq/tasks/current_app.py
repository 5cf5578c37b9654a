"""The app that acts here, for modules that don't know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..canvas.signature import set_default_sender
from ..exceptions import CallError
from ..results.reader import set_default_readers
from .request import running_request
from .task_core import TaskCore

if TYPE_CHECKING:
    pass


#: That of the app made last, unless another one was told to be it; empty where there is no app.
default_core: Final[list[TaskCore]] = []


def set_default_app(core: TaskCore) -> None:
    """Make the app of `core` that of shared tasks and signatures by name where no task of another app runs."""
    default_core[:] = [core]
    set_default_sender(core)
    set_default_readers(core)


class CurrentApp:
    """A proxy (`aiotq.current_app`) of the app whose task runs here, or else of the default app.

    That is the app made last, unless another one was told to `set_default()`.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app(), name)

    def __repr__(self) -> str:
        return repr(self._app())

    def __eq__(self, other: object) -> bool:
        return self._app() is (other._app() if isinstance(other, CurrentApp) else other)

    def __hash__(self) -> int:
        return hash(self._app())

    def _app(self) -> Any:
        task: Any = running_request.get().runner
        if task is not None:
            return task.app
        if not default_core:
            raise NoCurrentApp("there is no current app: create an AioTQ first")
        return default_core[0].app


class NoCurrentApp(CallError, AttributeError):
    """Raised for what is asked of the current app where there is none; no error to those who only look."""
