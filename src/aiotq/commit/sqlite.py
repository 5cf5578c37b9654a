"""The commit where broker and store are one SQLite file: a group of finishes is part of one transaction (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._sqlite import Transaction
from ..message import Envelope
from ..results.base import Arrival, Join, Record
from ..results.sqlite import SQLiteStore
from ..results.sqlite_joins import arrive, open_joins
from ..results.sqlite_records import write_records
from ..transport.base import Delivery
from ..transport.sqlite import SQLiteTransport
from ..transport.sqlite_messages import encode, insert, settle
from .base import COMMITTED, LEASE_LOST, Admission, Committed, Committer, Finish, LostLease


class SQLiteCommitter(Committer):
    """Writes finishes to a SQLite transport and a SQLite store on the same file."""

    def __init__(self, transport: SQLiteTransport, store: SQLiteStore) -> None:
        if transport.database is not store.database:
            raise ValueError("one transaction needs a transport and a store on the same Database")
        self._database = transport.database
        self._store = store
        self._clock = transport.clock

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        revoked = await self._store.revoked([delivery.message.id for delivery in deliveries])
        if not revoked:
            return Admission(deliveries)
        return Admission(
            [delivery for delivery in deliveries if delivery.message.id not in revoked],
            [delivery for delivery in deliveries if delivery.message.id in revoked],
        )

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        return self.consumer.renew(held) if self.consumer is not None else ()

    async def commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        now = self._clock.time()
        return await self._database.write(lambda transaction: _write(transaction, group, now))


def _write(transaction: Transaction, group: Sequence[Finish], now: float) -> list[Committed | LostLease]:
    """Write `group`; few statements for all of it, since each costs a turn at the interpreter lock."""
    held = iter(
        settle(
            transaction,
            [(finish.delivery, finish.settlement) for finish in group if finish.delivery is not None],
            now,
        )
    )
    answers: list[Committed | LostLease] = []
    joins: list[Join] = []
    records: list[Record] = []
    arrivals: list[Arrival] = []
    envelopes: list[Envelope] = []
    for finish in group:
        if finish.delivery is not None and not next(held):
            answers.append(LEASE_LOST)
            continue
        answers.append(COMMITTED)
        joins += finish.joins
        arrivals += finish.arrivals
        envelopes += finish.envelopes
        if finish.record is not None:
            records.append(finish.record)
    if joins:
        open_joins(transaction, joins)
    if records:
        write_records(transaction, records, now)
    if arrivals:
        envelopes += arrive(transaction, arrivals, now)
    if envelopes:
        insert(transaction, encode(envelopes, now))
    return answers
