"""The ledger in a PostgreSQL (P3, P8).

Most decisions are functions in the database; claims and rate limits are decided here, by `results.decisions`, in
transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Self

import orjson

from ...results.decisions import booked, start_kept
from ...results.fleet import MISSING_KEPT, FleetRow, Presence, sorted_by_key
from ...results.ledger import (
    REVOKED,
    Booking,
    Caution,
    Claim,
    Closing,
    Join,
    Joined,
    Ledger,
    Permit,
    ScheduleChange,
    ScheduleRow,
)
from ...results.permits import RESERVED, WAITING_KEPT
from ...results.records import Record, RecordStore
from ...wire.message import Envelope
from .claims import CLAIM_KEPT, FORGET, RENEW, RENEW_WITH_ROW, claiming, close_all
from .connection import PostgresClient, packed
from .fleet import writing_row
from .items import key_of, packed_change, packed_joins, readable_envelopes, text_of
from .lane import Work
from .wire import Wire

#: Seconds for which a booked start is remembered after it: it may come late, and is booked again then.
_BOOKING_KEPT: Final = 60.0
#: A number of those who wait is told up to here: nobody reads all rows to know it exactly.
_MOST_COUNTED: Final = 3000
#: Ids in a message on the bus.
_IDS_AT_ONCE: Final = 100

_NOW: Final = "extract(epoch from clock_timestamp())::float8"
_TIME: Final = f"select {_NOW}".encode()
_REVOKE: Final = (
    b"insert into aiotq.revocation as r (id, is_terminating, expires)"
    b" select t, $2::boolean, $3::float8 from unnest($1::text[]) as t order by t"
    b" on conflict (id) do update set is_terminating = r.is_terminating or excluded.is_terminating,"
    b" expires = greatest(r.expires, excluded.expires)"
)
_UNREVOKE: Final = b"delete from aiotq.revocation where id = any ($1::text[])"
_REVOCATIONS: Final = (
    f"select id, expires from aiotq.revocation where expires > {_NOW} order by expires desc limit $1::int"
).encode()
_PAUSE: Final = (
    b"insert into aiotq.paused (queue, since) values ($1::text, $2::float8) on conflict do nothing returning queue"
)
_RESUME: Final = b"delete from aiotq.paused where queue = $1::text returning queue"
_PAUSED: Final = b"select queue, since from aiotq.paused"
_HAS_REVOCATIONS: Final = f"select exists (select from aiotq.revocation where expires > {_NOW})".encode()
_REVOKED: Final = f"select id from aiotq.revocation where id = any ($1::text[]) and expires > {_NOW}".encode()
_OPEN_JOINS: Final = f"select aiotq.open_joins($1::jsonb, {_NOW})".encode()
_JOINED: Final = (
    "select j.id, j.about, j.touched, j.is_failed,"
    " a.member, a.id, a.state, a.body, a.content_type, a.expires, a.reply_to"
    " from aiotq.joins j left join aiotq.arrival a on a.join_id = j.id"
    f" where j.id = any ($1::text[]) and j.is_over and j.due > {_NOW}"
).encode()
_OVERDUE: Final = b"select * from aiotq.overdue($1::int)"
_KEYS: Final = (
    f"select name, mark, body, unsent from aiotq.key where name = any ($1::text[]) and expires > {_NOW}"
).encode()
_CHANGE: Final = b"select aiotq.change_schedule(x) from jsonb_array_elements($1::jsonb) as x"
_SCHEDULES: Final = (
    b"select name, mark, body, unsent from aiotq.schedule"
    b" where scope = $1::text and ($2::text[] is null or name = any ($2))"
)
_REVISION: Final = b"select coalesce((select value from aiotq.counter where name = 'schedules ' || $1::text), 0)"
#: What a dead holder has for a message that runs again is its next holder's.
_TAKE_OVER: Final = (
    b"update aiotq.permit p set holder = $2::text from jsonb_to_recordset($1::jsonb) as x(name text, k text)"
    b" where p.name = x.name and p.key = x.k and p.ctid = ("
    b"select o.ctid from aiotq.permit o where o.name = x.name and o.key = x.k order by o.holder = $2 desc limit 1)"
)
_ACQUIRE: Final = b"select aiotq.acquire_permits($1::jsonb, $2::text, $3::float8, $4::int)"
_RENEW_PERMITS: Final = (
    f"update aiotq.permit p set ends = {_NOW} + $3::float8 from jsonb_to_recordset($1::jsonb) as x(name text, k text)"
    " where p.name = x.name and p.key = x.k and p.holder = $2::text"
).encode()
_IS_ANY_WAITING: Final = b"select exists (select from aiotq.waiting)"
_HAND_OVER: Final = (
    b"select name, key, since from aiotq.hand_over_permits("
    b"$1::jsonb, $2::jsonb, $3::text, $4::jsonb, $5::float8, $6::float8)"
)
_RENEW_PRESENCE: Final = writing_row(1, 2, 3).encode()
_END_PRESENCE: Final = b"delete from aiotq.fleet where key = $1::text"
_FLEET: Final = f"select key, body, ends - {_NOW} from aiotq.fleet where ends > {_NOW} - $1::float8".encode()
_LOCK_NAMES: Final = b"select aiotq.lock_names($1::text[])"
_STARTS: Final = f"select name, at from aiotq.start where name = any ($1::text[]) and expires > {_NOW} - 60".encode()
_BOOK: Final = (
    b"insert into aiotq.start (name, at, expires)"
    b" select * from jsonb_to_recordset($1::jsonb) as x(name text, at float8, expires float8) order by name"
    b" on conflict (name) do update set at = excluded.at, expires = excluded.expires"
)


class PostgresLedger(Ledger):
    """A ledger on one `PostgresClient`, entered by whoever made it; it closes claims together with `records`."""

    def __init__(self, client: PostgresClient, records: RecordStore | None = None) -> None:
        super().__init__(records)
        self.client = client
        self._stop_hearing: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._stop_hearing = self.client.bus.hear(REVOKED, self._heard_of_revocations)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        if not ids:
            return
        await self.client.rows(_REVOKE, list(dict.fromkeys(ids)), terminate, expires)
        if terminate:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                payload = packed(list(ids[start : start + _IDS_AT_ONCE])).encode()
                await self.client.bus.tell_all(REVOKED, payload)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.rows(_UNREVOKE, list(ids))

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        return {task_id for (task_id,) in await self.client.rows(_REVOKED, list(ids))} if ids else ()

    async def revocations(self, limit: int = 1000) -> Mapping[str, float]:
        return dict(await self.client.rows(_REVOCATIONS, limit))

    async def has_revocations(self) -> bool:
        (found,) = await self.client.row(_HAS_REVOCATIONS)
        return bool(found)

    async def claim(
        self,
        keys: Sequence[tuple[str, int]],
        holder: str,
        lease: float,
        caution: Caution | None = None,
        dead: Collection[str] = (),
    ) -> Sequence[Claim]:
        if not keys:
            return ()
        return await self.client.requests.run(claiming(self.client, keys, holder, lease, caution, dead))

    def renew_claims(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, row: FleetRow | None = None
    ) -> Collection[tuple[str, int]]:
        if not keys and row is None:
            return ()
        values = [text_of(key) for key in keys], holder, lease, CLAIM_KEPT
        if row is None:
            rows = self.client.blocking.rows(RENEW, *values)
        else:
            rows = self.client.blocking.rows(RENEW_WITH_ROW, *values, row.key, row.row, row.lease)
        renewed = {key_of(text) for (text,) in rows}
        return [key for key in keys if key not in renewed]

    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        return await close_all(self.client, closings, holder)

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.rows(FORGET, list(ids))

    async def change_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        if not changes:
            return ()
        items = packed([packed_change(change, number) for number, change in enumerate(changes)])
        return [fate != "refused" for (fate,) in await self.client.rows(_CHANGE, items)]

    async def schedules(self, scope: str, names: Sequence[str] | None = None) -> Sequence[ScheduleRow]:
        rows = await self.client.rows(_SCHEDULES, scope, list(names) if names is not None else None)
        return [
            ScheduleRow(name, mark, body, readable_envelopes(unsent, f"periodic task {name}"))
            for name, mark, body, unsent in rows
        ]

    async def keys(self, names: Sequence[str]) -> Sequence[ScheduleRow]:
        rows = await self.client.rows(_KEYS, list(names)) if names else ()
        return [
            ScheduleRow(name, mark, body, readable_envelopes(unsent, f"key {name}"))
            for name, mark, body, unsent in rows
        ]

    async def schedules_revision(self, scope: str) -> int:
        (revision,) = await self.client.row(_REVISION, scope)
        return int(revision)

    async def time(self) -> float:
        (now,) = await self.client.row(_TIME)
        return float(now)

    async def pause_queue(self, name: str, since: float) -> bool:
        return bool(await self.client.rows(_PAUSE, name, since))

    async def resume_queue(self, name: str) -> bool:
        return bool(await self.client.rows(_RESUME, name))

    async def paused_queues(self) -> Mapping[str, float]:
        return dict(await self.client.rows(_PAUSED))

    async def _open_joins(self, joins: Sequence[Join]) -> None:
        await self.client.rows(_OPEN_JOINS, packed(packed_joins(joins, 0)))

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        if not join_ids:
            return ()
        found: dict[str, tuple[Any, dict[str, Record]]] = {}
        for join_id, about, ended_at, is_failed, member, *record in await self.client.rows(_JOINED, list(join_ids)):
            _, members = found.setdefault(join_id, ((about, ended_at, is_failed), {}))
            if member is not None:
                members[member] = Record(*record)
        return [
            Joined(found[each][0][0], found[each][1], *found[each][0][1:]) if each in found else None
            for each in join_ids
        ]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        return [join_id for (join_id,) in await self.client.rows(_OVERDUE, limit)]

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        return await self.client.requests.run(_booking(self.client, bookings)) if bookings else ()

    async def acquire_permits(self, permits: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        if not permits:
            return ()
        if again := [permit for permit in permits if permit.is_again]:
            await self.client.rows(_TAKE_OVER, packed([_packed_permit(permit) for permit in again]), holder)
        items = packed([{**_packed_permit(permit), "most": permit.limit} for permit in permits])
        (answers,) = await self.client.row(_ACQUIRE, items, holder, lease, _MOST_COUNTED)
        return [int(answer) for answer in answers]

    def renew_permits(self, permits: Collection[Permit], holder: str, lease: float) -> None:
        if permits:
            items = packed([_packed_permit(permit) for permit in permits])
            self.client.blocking.rows(_RENEW_PERMITS, items, holder, lease)

    async def hand_over_permits(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        if not (released or waiting) and not (await self.client.row(_IS_ANY_WAITING))[0]:
            return ()
        rows = await self.client.rows(
            _HAND_OVER,
            packed([_packed_permit(permit) for permit in released]),
            packed([{**_packed_permit(permit), "since": permit.since} for permit in waiting]),
            *(holder, packed(dict(limits)), WAITING_KEPT, RESERVED),
        )
        return [Permit(key_of(text), name, limits[name], since) for name, text, since in rows]

    def renew_presence(self, key: str, row: bytes, lease: float) -> None:
        self.client.blocking.rows(_RENEW_PRESENCE, key, row, lease)

    async def end_presence(self, key: str) -> None:
        await self.client.rows(_END_PRESENCE, key)

    async def fleet(self) -> Sequence[Presence]:
        return sorted_by_key(Presence(*row) for row in await self.client.rows(_FLEET, MISSING_KEPT))

    def _heard_of_revocations(self, payload: bytes) -> None:
        ids = orjson.loads(payload)
        self.on_revoked([str(each) for each in ids])


def _packed_permit(permit: Permit) -> dict[str, Any]:
    return {"name": permit.name, "k": text_of(permit.key)}


def _booking(client: PostgresClient, bookings: Sequence[Booking]) -> Work[list[float]]:
    """Return what reserves starts: one transaction at a time decides about each name."""
    names = sorted({f"name {booking.name}" for booking in bookings})
    messages = [f"message {text_of(booking.key)}" for booking in bookings]

    async def book(wire: Wire) -> list[float]:
        answers: list[float] = []
        kept: dict[str, tuple[float, float]] = {}
        async with wire.transaction():
            await wire.execute(client.named(_LOCK_NAMES), (names,))
            cursor = await wire.execute(client.named(_STARTS), ([*names, *messages],), binary=True)
            found: dict[str, float] = dict(await cursor.fetchall())
            ((now,),) = await (await wire.execute(_TIME, (), binary=True)).fetchall()
            for booking, message in zip(bookings, messages, strict=True):
                name = f"name {booking.name}"
                start, free_at = booked(booking, found.get(message), found.get(name), now)
                if free_at is not None:
                    kept[name] = free_at, free_at
                    found[name] = free_at
                    if start > now or booking.is_first:
                        kept[message] = start, start + start_kept(booking) + _BOOKING_KEPT
                        found[message] = start
                answers.append(max(start - now, 0.0))
            if kept:
                items = [{"name": name, "at": at, "expires": expires} for name, (at, expires) in kept.items()]
                await wire.execute(client.named(_BOOK), (packed(items),))
        return answers

    return book
