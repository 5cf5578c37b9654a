"""The commit where all is in one SQLite file: a group of finishes is part of one transaction (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...commit.committer import COMMITTED, LEASE_LOST, Admission, Committed, Committer, Finish, LostLease, admitted
from ...results.fleet import FleetRow
from ...results.ledger import NO_JOIN_CHANGES, JoinChanges
from ...results.records import Record
from ...transport.broker import Delivery
from ...wire.message import Envelope
from .broker import SQLiteBroker
from .consumer import SQLiteConsumer
from .fleet import renew_presence
from .joins import write_joinings
from .ledger import SQLiteLedger
from .messages import encode, insert, settle
from .record_rows import write_records
from .schedules import change_schedule
from .sql import Transaction


class SQLiteCommitter(Committer):
    """Writes finishes to broker, records and ledger in the same file."""

    def __init__(self, broker: SQLiteBroker, ledger: SQLiteLedger) -> None:
        if broker.database is not ledger.database:
            raise ValueError("one transaction needs a broker and a ledger on the same Database")
        self._database = broker.database
        self._ledger = ledger
        self._clock = broker.clock

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        return await admitted(self._ledger, deliveries)

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        if row is None or not isinstance(self.consumer, SQLiteConsumer):
            return super().renew(held, row)
        ends = self._clock.time() + row.lease

        def write_row(transaction: Transaction) -> None:
            renew_presence(transaction, row.key, row.row, ends)

        return self.consumer.renew(held, beside=write_row)

    def _renew_row(self, row: FleetRow) -> None:
        self._ledger.renew_presence(row.key, row.row, row.lease)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
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
    joinings: list[tuple[JoinChanges, Record | None]] = []
    records: list[Record] = []
    envelopes: list[Envelope] = []
    for finish in group:
        if finish.delivery is not None and not next(held):
            answers.append(LEASE_LOST)
            continue
        if finish.schedule is not None:
            fate = change_schedule(transaction, finish.schedule, now)
            if fate != "write":
                answers.append(LEASE_LOST if fate == "refused" else COMMITTED)
                continue
        answers.append(COMMITTED)
        envelopes += finish.envelopes
        if finish.joining is not NO_JOIN_CHANGES:
            joinings.append((finish.joining, finish.record))
        if finish.record is not None:
            records.append(finish.record)
        records += finish.further
    if joinings:
        envelopes += write_joinings(transaction, joinings, now)
    if records:
        write_records(transaction, records, now)
    if envelopes:
        insert(transaction, encode(envelopes, now))
    return answers
