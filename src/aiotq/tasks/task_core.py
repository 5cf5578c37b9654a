"""What a task needs from the core of its app."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..calling.envelopes import EnvelopeBuilder
from ..canvas.signature import Sender
from ..core.settings import Settings
from ..results import handle
from ..results.eager_result import EagerResult
from ..results.reader import Readers
from ..wire.serializers import SerializerRegistry
from .calls import CallHere
from .options import CallOptions
from .request import Request

if TYPE_CHECKING:
    from .task import Task


class RunTracing(Protocol):
    """What takes the trace of a run into a child process."""

    def for_child(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the headers of a run as the child gets them."""
        ...

    def enter_child(self, request: Request) -> None:
        """Be in the trace that they tell of."""
        ...


class TaskCore(Readers, Sender, Protocol):
    """What a task needs from the core of its app."""

    @property
    def _core(self) -> TaskCore: ...

    @property
    def conf(self) -> Settings: ...

    @property
    def serializers(self) -> SerializerRegistry: ...

    @property
    def tracing(self) -> RunTracing | None: ...

    def trace(self) -> None: ...

    @property
    def builder(self) -> EnvelopeBuilder: ...

    def call(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Coroutine[Any, Any, handle.AsyncResult[Any]]: ...

    async def update_state(self, request: Request, state: str, meta: Any) -> None: ...

    def send_event(self, request: Request, task: str, kind: str, fields: Mapping[str, Any]) -> None: ...

    async def apply_call(self, call: CallHere) -> EagerResult[Any]: ...
