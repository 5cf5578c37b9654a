"""The commit of the memory broker, records and ledger: one step, since nothing is awaited between its parts (P3)."""

from __future__ import annotations

from collections.abc import Sequence

from ...commit.committer import (
    COMMITTED,
    LEASE_LOST,
    Admission,
    Committed,
    Committer,
    Finish,
    LostLease,
    admission,
    keys_of_all,
)
from ...results.fleet import FleetRow
from ...transport.broker import Delivery
from .broker import MemoryBroker
from .state import MemoryState


class MemoryCommitter(Committer):
    """Writes finishes to a memory broker and its records and ledger."""

    def __init__(self, broker: MemoryBroker, state: MemoryState) -> None:
        self._queues = broker.queues
        self._state = state

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        ledger = self._state.ledger
        if not ledger.has_revocations:
            return Admission(deliveries)
        with self._state.lock:
            return admission(deliveries, ledger.revoked(keys_of_all(deliveries)))

    def _renew_row(self, row: FleetRow) -> None:
        with self._state.lock:
            self._state.ledger.fleet.renew(row.key, row.row, row.lease, self._state.ledger.clock.time())

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        with self._queues.lock, self._state.lock:
            return [self._write(finish) for finish in group]

    def _write(self, finish: Finish) -> Committed | LostLease:
        if finish.delivery is not None and not self._queues.settle(finish.delivery, finish.settlement):
            return LEASE_LOST
        if finish.schedule is not None:
            fate = self._state.ledger.change_schedule(finish.schedule)
            if fate != "write":
                return LEASE_LOST if fate == "refused" else COMMITTED
        following = self._state.write(finish.record, finish.envelopes, finish.joining, finish.further)
        if following:
            self._queues.add(following)
        return COMMITTED
