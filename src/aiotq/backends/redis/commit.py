"""The commit of a Redis that keeps messages, records and ledger: a group of finishes is one script call (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

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
from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.fleet import FleetRow
from ...transport.broker import Delivery
from .broker import RedisBroker
from .columns import Row, by_column, packed_columns
from .consumer import RedisConsumer
from .envelopes import packed_envelopes
from .idempotent import NumberedWrites
from .ledger import RedisLedger
from .messages import LIBRARIES, packed_settlement, place_of
from .record_fields import LIBRARIES as RESULTS
from .record_fields import packed_effects, packed_record
from .schedules import KEYS, packed_change
from .schedules import LIBRARY as SCHEDULES
from .script import Script

COMMIT: Final = Script(*LIBRARIES, *RESULTS, SCHEDULES, "commit", late={"lanes", "messages", KEYS, "joins", SCHEDULES})


class RedisCommitter(Committer):
    """Writes finishes to broker, records and ledger on one client."""

    def __init__(self, broker: RedisBroker, ledger: RedisLedger, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = broker.client
        self._retention = broker.retention
        self._ledger = ledger
        self._clock = clock
        self._line: NumberedWrites[Row] = NumberedWrites(broker.client, lambda row: id(row.finish))

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        # The read that brought them saw whether there are revocations at all: nearly always there are none.
        if isinstance(self.consumer, RedisConsumer) and not self.consumer.saw_revocations:
            return Admission(deliveries)
        return admission(deliveries, await self._ledger.revoked(keys_of_all(deliveries)))

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        if row is None or not isinstance(self.consumer, RedisConsumer):
            return super().renew(held, row)
        return self.consumer.renew(held, row)

    def _renew_row(self, row: FleetRow) -> None:
        self._ledger.renew_presence(row.key, row.row, row.lease)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        rows = by_column(group)
        answers = await self._line.write(rows, self._write)
        fates = [COMMITTED if answer else LEASE_LOST for answer in answers]
        if all(row.finish is finish for row, finish in zip(rows, group, strict=True)):
            return fates
        of = {id(row.finish): fate for row, fate in zip(rows, fates, strict=True)}
        return [of[id(finish)] for finish in group]

    async def _write(self, line: str, number: int, rows: Sequence[Row]) -> bytes:
        now = self._clock.time()
        columns, told, alone = packed_columns(rows, now)
        arguments = [line, number, now, self._retention, [_packed(finish) for finish in alone], columns]
        answers: bytes = await self._client.run(COMMIT, arguments, *told)
        return answers


def _packed(finish: Finish) -> tuple[object, ...]:
    effects = packed_effects(finish.joining, finish.further, finish.record)
    if finish.schedule is not None:
        effects = (*(effects or (False, ())), packed_change(finish.schedule))
    return (
        place_of(finish.delivery) if finish.delivery is not None else False,
        *packed_settlement(finish.settlement),
        packed_record(finish.record) if finish.record is not None else False,
        packed_envelopes(finish.envelopes),
        *effects,
    )
