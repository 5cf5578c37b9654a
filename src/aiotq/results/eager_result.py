"""The result of a call that ran in the calling process: `EagerResult`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.tracebacks import users_frames
from .document import Document, Update
from .handle import AsyncResult
from .reader import Readers

if TYPE_CHECKING:
    from .sets import GroupResult

R_co = TypeVar("R_co", covariant=True)


class EagerResult(AsyncResult[R_co]):
    """The result of a call that ran in the calling process (`apply`, `task_always_eager`): the task has ended."""

    __slots__ = ("_frames",)
    is_eager = True

    def __init__(
        self,
        task_id: str,
        value: R_co | BaseException,
        state: str,
        traceback: str | None = None,
        *,
        readers: Readers,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
    ) -> None:
        super().__init__(task_id, readers, parent=parent)
        self._frames = users_frames(value) if isinstance(value, BaseException) else None
        done = datetime.fromtimestamp(readers.now(), UTC).isoformat()
        self.see(Document(task_id, state, value, {"traceback": traceback, "date_done": done}))

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield the final state."""
        yield await self.look()

    async def forget(self) -> None:
        """Do nothing: no store has the result."""

    async def revoke(self, *, terminate: bool = False) -> None:
        """Do nothing: the task has run."""
