"""The ledger in a Redis: each decision is one script (see `lua/results.lua` for the keys)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.decisions import start_kept
from ...results.fleet import MISSING_KEPT, FleetRow, Presence, sorted_by_key
from ...results.ledger import (
    REVOKED as REVOKED_TOPIC,
)
from ...results.ledger import (
    AlreadyDone,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    Joined,
    Ledger,
    Permit,
    ScheduleChange,
    ScheduleRow,
    Suspected,
)
from ...results.records import Record, RecordStore
from ...results.revocations import unpack_notice
from ...wire.message import Envelope
from .connection import RedisClient
from .envelopes import envelopes_of, packed_envelopes, packed_key, unpacked_key
from .fleet import packed_row
from .record_fields import (
    ACQUIRE_PERMITS,
    BOOK,
    CLAIM,
    CLOSE,
    END_PRESENCE,
    FLEET,
    FORGET,
    HAND_OVER_PERMITS,
    JOINED,
    OPEN_JOINS,
    OVERDUE,
    RENEW_CLAIMS,
    RENEW_PERMITS,
    RENEW_PRESENCE,
    REVOKE,
    REVOKED,
    UNREVOKE,
    member_of,
    packed_effects,
    packed_join,
    packed_record,
)
from .schedules import CHANGE_SCHEDULES, packed_change, read_keys, read_revision, read_rows
from .script import unpack

logger = logging.getLogger("aiotq.results.redis")

#: Members of a join that are read before the loop has a turn: about a millisecond's work.
_MEMBERS_AT_ONCE: Final = 250


class RedisLedger(Ledger):
    """A ledger on one `RedisClient`, which its owner enters; it closes claims together with `records`."""

    def __init__(self, client: RedisClient, records: RecordStore | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(records)
        self._client = client
        self._clock = clock
        self._stop_hearing: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._stop_hearing = self._client.bus.hear(REVOKED_TOPIC, self._heard_of_revocations)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        if ids:
            await self._client.run(REVOKE, [self._clock.time(), list(ids), terminate, expires])

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        if not ids:
            return ()
        found: list[bytes] = await self._client.run(REVOKED, [list(ids)])
        return {task_id.decode() for task_id in found}

    async def unrevoke(self, ids: Sequence[str]) -> None:
        if ids:
            await self._client.run(UNREVOKE, [list(ids)])

    async def revocations(self, limit: int = 1000) -> Mapping[str, float]:
        now = f"({self._clock.time() * 1000:.0f}"
        wanted = ("ZREVRANGEBYSCORE", f"{self._client.base}:revoked", "+inf", now, "WITHSCORES", "LIMIT", 0, limit)
        found: list[bytes] = await self._client.ask(*wanted)
        return {key.decode(): float(ends) / 1000 for key, ends in zip(found[::2], found[1::2], strict=True)}

    async def has_revocations(self) -> bool:
        return bool(await self._client.ask("EXISTS", f"{self._client.base}:revoked"))

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
        deadly, room = (caution.deaths, caution.room) if caution is not None else (0, 0)
        arguments = [holder, lease * 1000, [packed_key(key) for key in keys], deadly, room, list(dead)]
        answers = await self._client.run(CLAIM, arguments)
        now = self._clock.time()
        return [_claim_of(answer, now) for answer in answers]

    def renew_claims(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, row: FleetRow | None = None
    ) -> Collection[tuple[str, int]]:
        if not keys and row is None:
            return ()
        ids = [packed_key(key) for key in keys]
        written = packed_row(row) if row is not None else False
        answers: bytes = self._client.blocking.run(RENEW_CLAIMS, [holder, lease * 1000, ids, written])
        return [key for key, renewed in zip(keys, answers, strict=True) if not renewed]

    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        packed = [
            (
                packed_key(closing.key),
                closing.is_done,
                packed_record(closing.record) if closing.record is not None else False,
                packed_envelopes(closing.envelopes),
                *packed_effects(closing.joining, closing.further, closing.record),
            )
            for closing in closings
        ]
        answers = await self._client.run(CLOSE, [self._clock.time(), holder, packed])
        return [envelopes_of(answer) if answer is not None else None for answer in answers]

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self._client.run(FORGET, [list(ids)])

    async def change_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        if not changes:
            return ()
        answers = await self._client.run(CHANGE_SCHEDULES, [[packed_change(change) for change in changes]])
        return [bool(answer) for answer in answers]

    async def schedules(self, scope: str, names: Sequence[str] | None = None) -> Sequence[ScheduleRow]:
        return await read_rows(self._client, scope, names)

    async def keys(self, names: Sequence[str]) -> Sequence[ScheduleRow]:
        return await read_keys(self._client, names)

    async def schedules_revision(self, scope: str) -> int:
        return await read_revision(self._client, scope)

    async def time(self) -> float:
        seconds, microseconds = await self._client.ask("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def _open_joins(self, joins: Sequence[Join]) -> None:
        await self._client.run(OPEN_JOINS, [self._clock.time(), [packed_join(join) for join in joins]])

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        if not join_ids:
            return ()
        answers = await self._client.run(JOINED, [list(join_ids)])
        return [
            await _joined_of(join_id, answer) if answer is not None else None
            for join_id, answer in zip(join_ids, answers, strict=True)
        ]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        found: list[bytes] = await self._client.run(OVERDUE, [limit])
        return [join_id.decode() for join_id in found]

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        if not bookings:
            return ()
        packed = [
            (
                *(packed_key(booking.key), booking.name, booking.interval * 1000, booking.burst),
                *(booking.is_first, start_kept(booking) * 1000),
            )
            for booking in bookings
        ]
        answers: bytes = await self._client.run(BOOK, [packed])
        return [wait / 1000 for wait in unpack(answers)]

    async def acquire_permits(self, permits: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        if not permits:
            return ()
        packed = [(packed_key(each.key), each.name, each.limit, each.is_again) for each in permits]
        answers: Sequence[int] = await self._client.run(ACQUIRE_PERMITS, [holder, lease * 1000, packed])
        return answers

    def renew_permits(self, permits: Collection[Permit], holder: str, lease: float) -> None:
        if permits:
            packed = [(packed_key(permit.key), permit.name) for permit in permits]
            self._client.blocking.run(RENEW_PERMITS, [holder, lease * 1000, packed])

    async def hand_over_permits(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        packed_released = [(packed_key(permit.key), permit.name) for permit in released]
        packed_waiting = [(packed_key(permit.key), permit.name, permit.since) for permit in waiting]
        woken = await self._client.run(
            HAND_OVER_PERMITS, [holder, packed_released, packed_waiting, list(limits.items())]
        )
        names = [name.decode() for _, name, _ in woken]
        return [
            Permit(unpacked_key(key), name, limits[name], float(since))
            for name, (key, _, since) in zip(names, woken, strict=True)
        ]

    def renew_presence(self, key: str, row: bytes, lease: float) -> None:
        self._client.blocking.run(RENEW_PRESENCE, [packed_row(FleetRow(key, row, lease))])

    async def end_presence(self, key: str) -> None:
        await self._client.run(END_PRESENCE, [key])

    async def fleet(self) -> Sequence[Presence]:
        answers = await self._client.run(FLEET, [MISSING_KEPT * 1000])
        return sorted_by_key(Presence(key.decode(), row, float(left) / 1000) for key, row, left in answers)

    async def pause_queue(self, name: str, since: float) -> bool:
        return bool(await self._client.ask("HSETNX", self._paused, name, f"{since:.3f}"))

    async def resume_queue(self, name: str) -> bool:
        return bool(await self._client.ask("HDEL", self._paused, name))

    async def paused_queues(self) -> Mapping[str, float]:
        found: list[bytes] = await self._client.ask("HGETALL", self._paused)
        return {name.decode(): float(since) for name, since in zip(found[::2], found[1::2], strict=True)}

    @property
    def _paused(self) -> str:
        return f"{self._client.base}:paused"

    def _heard_of_revocations(self, payload: bytes) -> None:
        self.on_revoked(unpack_notice(payload).ids)


def _claim_of(answer: Sequence[Any], now: float) -> Claim:
    match answer:
        case [b"d", packed]:
            return AlreadyDone(envelopes_of(packed))
        case [b"h", left]:
            return HeldElsewhere(now + float(left) / 1000)
        case [b"s", deaths]:
            return Suspected(deaths)
        case [_, deaths]:
            return Claimed(deaths)
        case _:
            raise ValueError(f"Redis answered a claim with {answer!r}")


async def _joined_of(join_id: str, answer: Sequence[Any]) -> Joined:
    about, ended_at, failed, fields = answer
    members: dict[str, Record] = {}
    for number, (member, packed) in enumerate(zip(fields[::2], fields[1::2], strict=True), 1):
        record = member_of(packed)
        if record is None:
            logger.warning("join %s: the record of its member %s can't be read, and is left out", join_id, member)
        else:
            members[member.decode()] = record
        if not number % _MEMBERS_AT_ONCE:
            await asyncio.sleep(0)
    return Joined(about.decode(), members, float(ended_at), failed == b"1")
