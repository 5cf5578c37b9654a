"""`memory://`: in this process. `memory://name` is common to its apps, `memory://` belongs to one."""

from __future__ import annotations

from collections.abc import Hashable

from ...commit import Committer
from ...core.child import is_child
from ...exceptions import OperationalError
from ..base import Backend, BackendContext
from .broker import MemoryBroker
from .bus import MemoryBus
from .commit import MemoryCommitter
from .ledger import MemoryLedger
from .queues import MemoryQueues
from .records import MemoryRecords
from .state import MemoryState


class MemoryBackend(Backend):
    """Broker, records, ledger and bus in this process."""

    has_shares = True

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
        state: MemoryState = context.memory(name, "records", lambda: MemoryState(clock=clock))
        bus = MemoryBus(state.hub)
        broker, records = MemoryBroker(queues), MemoryRecords(state, bus)
        self.broker, self.records, self.ledger, self.bus = broker, records, MemoryLedger(state, bus, records), bus
        self._parts = broker, state

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    def committer(self) -> Committer:
        return MemoryCommitter(*self._parts)
