"""What a worker asks of its app, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from ..calling.middleware import MiddlewareStack
from ..canvas.coordinator import Coordinator
from ..commit import Committer
from ..core.clock import Clock
from ..core.settings import Settings
from ..results import Joined, Ledger
from ..results.document import DocumentCodec
from ..tasks.request import Request
from ..tasks.task import Task
from ..transport import Broker, Consumer
from ..wire.serializers import SerializerRegistry
from ..wire.signing import Signer
from .lifespans import WorkerLifespan


class WorkerConnection(Protocol):
    """An app's connection, as a worker sees it."""

    @property
    def broker(self) -> Broker: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def revocation_listeners(self) -> set[Callable[[Collection[str]], None]]: ...

    async def ended(self) -> None:
        """Return when it is closed or has failed."""

    def committer(self, consumer: Consumer, holder: str, lease: float) -> Committer: ...


class WorkerHome(Protocol):
    """An app, as a worker sees it."""

    @property
    def main(self) -> str | None: ...

    @property
    def conf(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def serializers(self) -> SerializerRegistry: ...

    @property
    def signer(self) -> Signer | None: ...

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]: ...

    @property
    def onion(self) -> MiddlewareStack: ...

    @property
    def worker_lifespans(self) -> Sequence[WorkerLifespan[Any]]: ...

    def load_tasks(self) -> None: ...

    @property
    def codec(self) -> DocumentCodec: ...

    async def joined(self, join_id: str) -> Joined | None: ...

    def coordinator(self, worker: str, *, has_joins: bool) -> Coordinator: ...

    def holding(self) -> AbstractAsyncContextManager[WorkerConnection]:
        """Be connected, and stay so until this is left."""
        ...

    async def update_state(self, request: Request, state: str, meta: Any) -> None: ...
