"""A ledger in the memory of one process: what `memory://` keeps, and what an app has whose workers share none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Self

from ..control.bus import Bus
from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.values import replace
from ..exceptions import StoreRequired
from ..wire.message import Envelope
from .fleet import FleetRow, Presence
from .ledger import (
    NO_JOIN_CHANGES,
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
from .ledger_table import LedgerTable, Write
from .records import RecordStore
from .revocations import pack_notices, unpack_notice

logger = logging.getLogger("aiotq.results")

_MOST_REVOKED: Final = 50_000
_NO_PAUSE: Final = (
    "queue {!r} can't be paused or resumed for all workers: that is kept in a store that they share, and there is "
    "none: set result_backend or ledger to a redis:// or sqlite:// URL, or pause the workers (aiotq control pause)"
)


class InProcessLedger(Ledger):
    """A ledger in memory, seen through a `bus`; `write` is what a close does to records and joins."""

    def __init__(
        self,
        table: LedgerTable,
        bus: Bus,
        *,
        lock: threading.Lock,
        write: Write,
        records: RecordStore | None = None,
    ) -> None:
        super().__init__(records)
        self._table = table
        self._bus = bus
        self._lock = lock
        self._write = write
        self._stop_hearing: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._stop_hearing = self._bus.hear(REVOKED, self._heard)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()

    @contextmanager
    def _held(self) -> Generator[LedgerTable]:
        with self._lock:
            yield self._table

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        with self._held() as table:
            table.revoke(ids, expires)
        if terminate:
            for notice in pack_notices(ids, terminate=True, expires=expires):
                await self._bus.tell_all(REVOKED, notice)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        with self._held() as table:
            table.unrevoke(ids)

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        with self._held() as table:
            return table.revoked(ids)

    async def revocations(self, limit: int = 1000) -> Mapping[str, float]:
        with self._held() as table:
            return table.revocations(limit)

    async def has_revocations(self) -> bool:
        return self._table.has_revocations

    async def claim(
        self,
        keys: Sequence[tuple[str, int]],
        holder: str,
        lease: float,
        caution: Caution | None = None,
        dead: Collection[str] = (),
    ) -> Sequence[Claim]:
        with self._held() as table:
            return table.claim(keys, holder, lease, caution, dead)

    def renew_claims(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, row: FleetRow | None = None
    ) -> Collection[tuple[str, int]]:
        with self._held() as table:
            if row is not None:
                table.fleet.renew(row.key, row.row, row.lease, table.clock.time())
            return [key for key in keys if not table.renew_claim(key, holder, lease)]

    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        with self._held() as table:
            return [table.close(closing, holder, self._write) for closing in closings]

    async def forget(self, ids: Sequence[str]) -> None:
        with self._held() as table:
            for task_id in ids:
                table.forget(task_id)

    async def _open_joins(self, joins: Sequence[Join]) -> None:
        with self._held() as table:
            for join in joins:
                table.open_join(join)

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        with self._held() as table:
            return [table.joined(join_id) for join_id in join_ids]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        with self._held() as table:
            return table.overdue(limit)

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        with self._held() as table:
            return [table.book(booking) for booking in bookings]

    async def acquire_permits(self, permits: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        with self._held() as table:
            now = table.clock.monotonic()
            return [table.permits.acquire(permit, holder, lease, now) for permit in permits]

    def renew_permits(self, permits: Collection[Permit], holder: str, lease: float) -> None:
        with self._held() as table:
            for permit in permits:
                table.permits.renew(permit, holder, lease, table.clock.monotonic())

    async def hand_over_permits(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        with self._held() as table:
            return table.permits.hand_over(released, waiting, holder, limits, table.clock.monotonic())

    async def change_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        with self._held() as table:
            return [table.change_schedule(change) != "refused" for change in changes]

    async def schedules(self, scope: str, names: Sequence[str] | None = None) -> Sequence[ScheduleRow]:
        with self._held() as table:
            return table.schedules(scope, names)

    async def keys(self, names: Sequence[str]) -> Sequence[ScheduleRow]:
        with self._held() as table:
            return table.keys(names)

    async def schedules_revision(self, scope: str) -> int:
        return self._table.schedules_revision(scope)

    async def time(self) -> float:
        return self._table.clock.time()

    def renew_presence(self, key: str, row: bytes, lease: float) -> None:
        with self._held() as table:
            table.fleet.renew(key, row, lease, table.clock.time())

    async def end_presence(self, key: str) -> None:
        with self._held() as table:
            table.fleet.end(key)

    async def fleet(self) -> Sequence[Presence]:
        with self._held() as table:
            return table.fleet.present(table.clock.time())

    async def pause_queue(self, name: str, since: float) -> bool:
        with self._held() as table:
            is_new = name not in table.paused
            table.paused.setdefault(name, since)
            return is_new

    async def resume_queue(self, name: str) -> bool:
        with self._held() as table:
            return table.paused.pop(name, None) is not None

    async def paused_queues(self) -> Mapping[str, float]:
        with self._held() as table:
            return dict(table.paused)

    def _heard(self, payload: bytes) -> None:
        self.on_revoked(unpack_notice(payload).ids)


class LocalLedger(InProcessLedger):
    """The ledger of one process where workers share none: claims, starts and permits are each process's own.

    Revocations are told to all who run at that time, and remembered by them. Joins can't be counted.
    """

    has_joins = False
    has_fleet = False

    def __init__(self, bus: Bus, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(LedgerTable(clock), bus, lock=threading.Lock(), write=_only_envelopes)

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        await self._tell(ids, terminate, expires)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        await self._tell(ids, False, 0.0)

    async def _tell(self, ids: Sequence[str], terminate: bool, expires: float) -> None:
        self._remember(ids, expires)
        for notice in pack_notices(ids, terminate=terminate, expires=expires):
            await self._bus.tell_all(REVOKED, notice)

    def _remember(self, ids: Sequence[str], expires: float) -> None:
        with self._held() as table:
            if expires > 0:
                table.revoke(ids, expires)
                table.forget_oldest_revocations(_MOST_REVOKED)
            else:
                table.unrevoke(ids)

    def _heard(self, payload: bytes) -> None:
        notice = unpack_notice(payload)
        self._remember(notice.ids, notice.expires)
        if notice.terminate:
            self.on_revoked(notice.ids)

    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        for closing in closings:
            if replace(closing.joining, keys=()) != NO_JOIN_CHANGES:
                logger.error(
                    "task %s belongs to a workflow that is kept in a store, and this worker has none (rpc://): "
                    "the workflow will fail when it is overdue; give all workers the same result_backend",
                    closing.key[0],
                )
        with self._held() as table:
            return [table.close_for_itself(closing, holder, self._write) for closing in closings]

    async def pause_queue(self, name: str, since: float) -> bool:
        raise StoreRequired(_NO_PAUSE.format(name))

    async def resume_queue(self, name: str) -> bool:
        raise StoreRequired(_NO_PAUSE.format(name))

    async def _open_joins(self, joins: Sequence[Join]) -> None:
        raise StoreRequired(
            "a chord, or a group with tasks behind it, is counted in a store that all workers share, and there is "
            "none: set result_backend to a redis:// or sqlite:// URL, or leave it and set ledger to one"
        )


def _only_envelopes(closing: Closing) -> tuple[Envelope, ...]:
    return closing.envelopes
