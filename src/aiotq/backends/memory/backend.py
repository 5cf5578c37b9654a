"""`memory://`: in this process. `memory://name` is common to its apps, `memory://` belongs to one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ...core.child import is_child
from ...exceptions import OperationalError
from ..base import House, Place
from .broker import MemoryTransport
from .commit import MemoryCommitter
from .queues import MemoryBroker
from .records import MemoryRecords, MemoryStore


class Here(Place):
    """Broker and results in this process."""

    def __init__(self, url: str, house: House) -> None:
        if is_child():
            raise OperationalError(
                f"{url} is in the memory of the worker's process, and a run='process' task can't reach it: "
                "send from a coroutine or a thread, or use a broker with a file or a server"
            )
        name = url.partition("://")[2]
        conf, clock = house.conf, house.clock
        broker = house.memory(
            name, "broker", lambda: MemoryBroker(clock=clock, dead_letter_expires=conf.dead_letter_expires)
        )
        records = house.memory(name, "records", lambda: MemoryRecords(clock=clock))
        transport = MemoryTransport(broker)
        store = MemoryStore(records)
        self.transport, self.store = transport, store
        self._parts = transport, store

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    def committer(self) -> Committer:
        return MemoryCommitter(*self._parts)
