"""The commit of a PostgreSQL that keeps messages, records and ledger: a group of finishes is one call (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

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
from ...exceptions import ConnectionLost, OperationalError
from ...results.fleet import FleetRow
from ...results.records import RESULTS
from ...transport.broker import Delivery
from .broker import PostgresBroker
from .connection import packed
from .consumer import PostgresConsumer
from .items import Effects, in_order, packed_change, packed_envelopes, packed_settlement
from .ledger import PostgresLedger
from .numbered import NumberedWrites, all_but
from .pushing import push, pushes

_COMMIT: Final = (
    b"call aiotq.commit_and_tell($1::text, $2::bigint, $3::jsonb, $4::text, $5::text, $6::text[], $7::text[],"
    b" null, null, null, null, null, null)"
)


class PostgresCommitter(Committer):
    """Writes finishes to broker, records and ledger on one client."""

    def __init__(self, broker: PostgresBroker, ledger: PostgresLedger) -> None:
        self._client = broker.client
        self._ledger = ledger
        self._line: NumberedWrites[Finish] = NumberedWrites(broker.client, id, all_but)

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        # The read that brought them saw whether there are revocations at all: nearly always there are none.
        if isinstance(self.consumer, PostgresConsumer) and not self.consumer.saw_revocations:
            return Admission(deliveries)
        return admission(deliveries, await self._ledger.revoked(keys_of_all(deliveries)))

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        if row is None or not isinstance(self.consumer, PostgresConsumer):
            return super().renew(held, row)
        try:
            return self.consumer.renew(held, row)
        except ConnectionLost:
            raise
        except OperationalError:  # the row alone may be what is refused
            return super().renew(held, row)

    def _renew_row(self, row: FleetRow) -> None:
        self._ledger.renew_presence(row.key, row.row, row.lease)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        answers = await self._line.write(group, self._write)
        return [COMMITTED if answer else LEASE_LOST for answer in answers]

    async def _write(self, line: str, number: int, group: Sequence[Finish]) -> Sequence[int]:
        parts, effects = packed_group(group)
        client = self._client
        notices = client.notices(RESULTS, pushes(effects.records))
        lost, ready, hurry, kept, watched, is_told = await client.commit(
            _COMMIT, line, number, parts, client.address.channel_base, client.bus.woken, *notices
        )
        client.wake(ready)
        client.hurry(hurry)
        if not is_told:
            push(client, effects.written(lost), kept, watched)
        return all_but(lost, len(group))


def packed_group(group: Sequence[Finish]) -> tuple[str, Effects]:
    """Return finishes as `aiotq.commit` takes them, and what they do to joins and records.

    Raises:
        Refused: one can't be encoded.
    """
    effects = Effects()
    given: dict[str, list[Any]] = {"held": [], "schedules": [], "envelopes": []}
    for place, finish in enumerate(group):
        if finish.delivery is not None:
            given["held"].append(packed_settlement(place, finish.delivery, finish.settlement))
        if finish.schedule is not None:
            given["schedules"].append(packed_change(finish.schedule, place))
        given["envelopes"] += packed_envelopes(finish.envelopes, place)
        effects.add(place, finish.record, finish.further, finish.joining)
    given["held"], given["twice"] = in_order(given["held"])
    return packed({**{name: items for name, items in given.items() if items}, **effects.given()}), effects
