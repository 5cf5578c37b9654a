"""`memory://`: in this process. `memory://name` is common to its apps, `memory://` belongs to one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ...core.child import is_child
from ...exceptions import OperationalError
from ..base import Backend, BackendContext
from .broker import MemoryBroker
from .commit import MemoryCommitter
from .queues import MemoryQueues
from .records import MemoryRecords, MemoryStore


class MemoryBackend(Backend):
    """Broker and results in this process."""

    def __init__(self, url: str, context: BackendContext) -> None:
        if is_child():
            raise OperationalError(
                f"{url} is in the memory of the worker's process, and a run='process' task can't reach it: "
                "send from a coroutine or a thread, or use a broker with a file or a server"
            )
        name = url.partition("://")[2]
        conf, clock = context.conf, context.clock
        queues = context.memory(
            name, "broker", lambda: MemoryQueues(clock=clock, dead_letter_expires=conf.dead_letter_expires)
        )
        records = context.memory(name, "records", lambda: MemoryRecords(clock=clock))
        broker = MemoryBroker(queues)
        store = MemoryStore(records)
        self.broker, self.store = broker, store
        self._parts = broker, store

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    def committer(self) -> Committer:
        return MemoryCommitter(*self._parts)
