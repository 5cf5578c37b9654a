"""The results store in a Redis: strings that expire, and pushes (see `lua/results.lua` for the keys)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.base import (
    BOOKING_GRACE,
    AlreadyDone,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    Joined,
    Permit,
    Record,
    ResultStore,
    Suspected,
)
from ...results.join_checks import check_joining, check_joins
from ...wire.message import Envelope
from .connection import RedisClient
from .envelopes import envelopes_of, packed_envelopes, packed_key, unpacked_key
from .record_fields import (
    ACQUIRE_PERMITS,
    BOOK,
    CLAIM,
    CLOSE,
    FORGET,
    HAND_OVER_PERMITS,
    JOINED,
    KEEP_PERMITS,
    OPEN_JOINS,
    OVERDUE,
    PUT,
    RENEW_CLAIMS,
    REVOKE,
    REVOKED,
    UNREVOKE,
    WATCH,
    member_of,
    packed_effects,
    packed_join,
    packed_record,
    record_of,
)
from .script import unpack

logger = logging.getLogger("aiotq.results.redis")

#: Members of a join that are read before the loop has a turn: about a millisecond's work.
_MEMBERS_AT_ONCE: Final = 250
#: Seconds for which a process that ended without saying so is thought to watch a task.
_WATCH_KEPT: Final = 86_400


class RedisStore(ResultStore):
    """A results store on one `RedisClient`, which is entered by whoever made it."""

    def __init__(self, client: RedisClient, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.client = client
        self._clock = clock
        self.on_push = _ignore
        self.on_revoked = _ignore
        self.on_missed = _ignore

    @property
    def address(self) -> str:
        return self.client.name

    async def __aenter__(self) -> Self:
        self.client.hear(b"r", self._pushed)
        self.client.hear(b"x", self._told_of_revocations)
        self.client.on_gap(self._missed)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.client.unhear(b"r", self._pushed)
        self.client.unhear(b"x", self._told_of_revocations)
        self.client.off_gap(self._missed)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        values = await self.client.ask("MGET", *(f"{self.client.base}:result:{task_id}" for task_id in ids))
        return [
            record_of(task_id, value) if value is not None else None for task_id, value in zip(ids, values, strict=True)
        ]

    async def put(self, records: Sequence[Record]) -> None:
        if records:
            await self.client.run(PUT, [self._clock.time(), [packed_record(record) for record in records]])

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.run(FORGET, [list(ids)])

    async def watch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, True, _WATCH_KEPT])

    async def unwatch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, False, _WATCH_KEPT])

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        if ids:
            await self.client.run(REVOKE, [self._clock.time(), list(ids), terminate, expires])

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        if not ids:
            return ()
        found: list[bytes] = await self.client.run(REVOKED, [list(ids)])
        return {task_id.decode() for task_id in found}

    async def unrevoke(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.run(UNREVOKE, [list(ids)])

    async def has_revocations(self) -> bool:
        return bool(await self.client.ask("EXISTS", f"{self.client.base}:revoked"))

    async def claim(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None = None
    ) -> Sequence[Claim]:
        if not keys:
            return ()
        deadly, room = (caution.deaths, caution.room) if caution is not None else (0, 0)
        arguments = [holder, lease * 1000, [packed_key(key) for key in keys], deadly, room]
        answers = await self.client.run(CLAIM, arguments)
        now = self._clock.time()
        return [_claim_of(answer, now) for answer in answers]

    def renew_claims(self, keys: Sequence[tuple[str, int]], holder: str, lease: float) -> Collection[tuple[str, int]]:
        if not keys:
            return ()
        ids = [packed_key(key) for key in keys]
        answers: bytes = self.client.blocking.run(RENEW_CLAIMS, [holder, lease * 1000, ids])
        return [key for key, renewed in zip(keys, answers, strict=True) if not renewed]

    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        if not closings:
            return ()
        for closing in closings:
            check_joining(closing.joining, closing.record)
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
        answers = await self.client.run(CLOSE, [self._clock.time(), holder, packed])
        return [envelopes_of(answer) if answer is not None else None for answer in answers]

    async def open_joins(self, joins: Sequence[Join]) -> None:
        check_joins(joins)
        if joins:
            await self.client.run(OPEN_JOINS, [self._clock.time(), [packed_join(join) for join in joins]])

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        if not join_ids:
            return ()
        answers = await self.client.run(JOINED, [list(join_ids)])
        return [
            await _joined_of(join_id, answer) if answer is not None else None
            for join_id, answer in zip(join_ids, answers, strict=True)
        ]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        found: list[bytes] = await self.client.run(OVERDUE, [limit])
        return [join_id.decode() for join_id in found]

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        if not bookings:
            return ()
        packed = [(packed_key(booking.key), booking.name, booking.interval * 1000) for booking in bookings]
        answers: bytes = await self.client.run(BOOK, [packed, BOOKING_GRACE * 1000])
        return [wait / 1000 for wait in unpack(answers)]

    async def acquire_permits(self, seats: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        if not seats:
            return ()
        packed = [(packed_key(seat.key), seat.name, seat.limit) for seat in seats]
        answers: Sequence[int] = await self.client.run(ACQUIRE_PERMITS, [holder, lease * 1000, packed])
        return answers

    def renew_permits(self, seats: Collection[Permit], holder: str, lease: float) -> None:
        if seats:
            packed = [(packed_key(seat.key), seat.name) for seat in seats]
            self.client.blocking.run(KEEP_PERMITS, [holder, lease * 1000, packed])

    async def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        packed_left = [(packed_key(seat.key), seat.name) for seat in left]
        packed_seeking = [(packed_key(seat.key), seat.name, seat.since) for seat in seeking]
        told = await self.client.run(HAND_OVER_PERMITS, [holder, packed_left, packed_seeking, list(limits.items())])
        names = [name.decode() for _, name, _ in told]
        return [
            Permit(unpacked_key(key), name, limits[name], float(since))
            for name, (key, _, since) in zip(names, told, strict=True)
        ]

    def _pushed(self, payload: bytes) -> None:
        if not self.listening:
            return
        fields: list[bytes] = unpack(payload)
        records: list[Record] = []
        unread: list[str] = []
        for task_id, value in zip(fields[::2], fields[1::2], strict=True):
            record = record_of(task_id.decode(), value) if value else None
            if record is not None:
                records.append(record)
            else:
                unread.append(task_id.decode())
        if records:
            self.on_push(records)
        if unread:
            self.on_missed(unread)

    def _told_of_revocations(self, payload: bytes) -> None:
        ids: list[bytes] = unpack(payload)
        self.on_revoked([task_id.decode() for task_id in ids])

    def _missed(self) -> None:
        self.on_missed(None)


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


def _ignore(_: object) -> None:
    """What a store does with its news while nobody asked for them."""
