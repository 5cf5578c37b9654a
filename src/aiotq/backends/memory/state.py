"""The state that the loops of one `memory://` share: records, the ledger, and the hub of their buses."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.values import replace
from ...results.index import FinishedTable
from ...results.ledger import Closing, JoinChanges, Joined
from ...results.ledger_table import Expiring, LedgerTable
from ...results.records import RESULTS, Record
from ...states import READY_STATES
from ...wire.message import Envelope
from .bus import MemoryHub


class MemoryState:
    """Records and ledger of one app, to be shared by its connections.

    Every method returns at once and expects `lock` to be held by its caller, so that several of them can be
    one step.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self.hub = MemoryHub()
        self._expiring = Expiring()
        self.ledger = LedgerTable(clock, self._expiring)
        self._records: dict[str, Record] = {}
        self._watchers: dict[str, set[str]] = {}
        self.finished = FinishedTable()

    def __len__(self) -> int:
        """How many things are kept: records, what finished, and all of the ledger."""
        return len(self._records) + len(self.finished) + len(self.ledger)

    def get(self, task_id: str) -> Record | None:
        record = self._records.get(task_id)
        return record if record is not None and record.expires > self.clock.time() else None

    def put(self, record: Record) -> None:
        """Store a state and push it, unless a terminal one stands already."""
        now = self.clock.time()
        before = self._records.get(record.id)
        if before is None:
            self._expiring.note(self._records, record.id, record.expires, now)
        elif before.state in READY_STATES and before.expires > now:
            return
        if record.entry is not None:
            self.finished.add(record.entry, now)
            record = replace(record, entry=None)
        self._records[record.id] = record
        if record.reply_to is not None:
            self.hub.tell(record.reply_to, RESULTS, record)
        if self._watchers:
            for address in self._watchers.get(record.id, ()):
                if address != record.reply_to:
                    self.hub.tell(address, RESULTS, record)

    def forget(self, task_id: str) -> None:
        self._records.pop(task_id, None)

    def write(
        self,
        record: Record | None,
        envelopes: tuple[Envelope, ...],
        joining: JoinChanges,
        further: Iterable[Record],
    ) -> tuple[Envelope, ...]:
        """Write what came of one run; return `envelopes` and those of joins that are over by it."""
        envelopes += self.ledger.write_joins(joining, record)
        if record is not None:
            self.put(record)
        for each in further:
            self.put(each)
        return envelopes

    def write_closing(self, closing: Closing) -> tuple[Envelope, ...]:
        return self.write(closing.record, closing.envelopes, closing.joining, closing.further)

    def joined(self, join_id: str) -> Joined | None:
        return self.ledger.joined(join_id)

    def watch(self, task_id: str, address: str) -> None:
        self._watchers.setdefault(task_id, set()).add(address)

    def unwatch(self, task_id: str, address: str) -> None:
        watchers = self._watchers.get(task_id)
        if watchers is not None:
            watchers.discard(address)
            if not watchers:
                del self._watchers[task_id]

    def unwatch_all(self, address: str) -> None:
        for task_id in [task_id for task_id, watchers in self._watchers.items() if address in watchers]:
            self.unwatch(task_id, address)
