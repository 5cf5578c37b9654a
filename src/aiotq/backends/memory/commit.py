"""The commit of the memory broker and store: one step, since nothing is awaited between its parts (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
from ...results.join_checks import check_joining
from ...transport.broker import Delivery
from .broker import MemoryBroker
from .records import MemoryStore


class MemoryCommitter(Committer):
    """Writes finishes to a memory broker and a memory store."""

    def __init__(self, broker: MemoryBroker, store: MemoryStore) -> None:
        self._queues = broker.queues
        self._records = store.records

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        if not self._records.has_revocations:
            return Admission(deliveries)
        with self._records.lock:
            return admission(deliveries, self._records.revoked(keys_of_all(deliveries)))

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        return self.consumer.renew(held) if self.consumer is not None else ()

    async def commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        for finish in group:
            check_joining(finish.joining, finish.record)
        with self._queues.lock, self._records.lock:
            return [self._write(finish) for finish in group]

    def _write(self, finish: Finish) -> Committed | LostLease:
        if finish.delivery is not None and not self._queues.settle(finish.delivery, finish.settlement):
            return LEASE_LOST
        following = self._records.write(finish.record, finish.envelopes, finish.joining, finish.further)
        if following:
            self._queues.add(following)
        return COMMITTED
