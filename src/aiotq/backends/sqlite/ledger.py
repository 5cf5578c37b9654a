"""The ledger in a SQLite file, for several processes of one machine (P3, P8).

Here is the contract's face of it, with listening and upkeep. `claims`, `joins`, `starts`, `permits` and `schedules` are
functions on a `Transaction`, which `commit` composes with the broker's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.fleet import FleetRow, Presence
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
from ...results.records import RecordStore
from ...wire.message import Envelope
from .claims import CLAIM_KEPT, claim_all, close, take_back_deaths
from .connection import Database
from .fleet import end_presence, purge_fleet, read_fleet, renew_presence
from .joins import joined, look_for_overdue, open_joins, purge_joins, put_right
from .listening import BATCH, Listening, delete_expired
from .permits import acquire, hand_over, renew
from .schedules import change_schedule, read_keys, read_revision, read_schedules
from .sql import Transaction, ids_in, in_chunks, marks
from .starts import book


class SQLiteLedger(Ledger):
    """A ledger in a SQLite file; it closes claims together with `records` in the same file."""

    def __init__(self, database: Database, records: RecordStore | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(records)
        self.database = database
        self.clock = clock
        self._seen = 0  #: the last number read of `revocations`
        self._listening: Listening | None = None

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        try:
            self._seen = await self.database.read(_last_revocation)
            self._listening = Listening(self.database, "ledger", REVOKED, self._read_revocations, self._purge)
            await self._listening.start()
        except BaseException:
            await self.database.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._listening is not None:
                await self._listening.stop()
        finally:
            await self.database.__aexit__(*exc_info)

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        def revoke(transaction: Transaction) -> None:
            for task_id in ids:
                # Under a new number, so that whoever listens reads it; never for a shorter time than before.
                transaction.execute(
                    "INSERT OR REPLACE INTO revocations (id, is_terminating, expires)"
                    " SELECT :id, :terminate,"
                    " max(:expires, ifnull((SELECT expires FROM revocations WHERE id = :id), 0))",
                    {"id": task_id, "terminate": int(terminate), "expires": expires},
                )
            if terminate:
                transaction.tell_all(REVOKED)

        await self.database.write(revoke)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        def unrevoke(transaction: Transaction) -> None:
            for chunk in in_chunks(ids):
                transaction.execute(f"DELETE FROM revocations WHERE id IN ({marks(len(chunk))})", chunk)

        await self.database.write(unrevoke)

    async def revocations(self, limit: int = 1000) -> Mapping[str, float]:
        query = "SELECT id, expires FROM revocations WHERE expires > ? ORDER BY expires DESC LIMIT ?"
        now = self.clock.time()
        return await self.database.read(lambda connection: dict(connection.execute(query, (now, limit))))

    async def has_revocations(self) -> bool:
        query = "SELECT EXISTS (SELECT 1 FROM revocations WHERE expires > ?)"
        now = self.clock.time()
        (found,) = await self.database.read(lambda connection: connection.execute(query, (now,)).fetchone())
        return bool(found)

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        if not ids:
            return ()
        now = self.clock.time()
        return await self.database.read(lambda connection: ids_in(connection, "revocations", ids, now))

    async def claim(
        self,
        keys: Sequence[tuple[str, int]],
        holder: str,
        lease: float,
        caution: Caution | None = None,
        dead: Collection[str] = (),
    ) -> Sequence[Claim]:
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: claim_all(transaction, keys, holder, now, lease, caution, dead)
        )

    def renew_claims(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, row: FleetRow | None = None
    ) -> Collection[tuple[str, int]]:
        now = self.clock.time()

        def renew_all(transaction: Transaction) -> list[tuple[str, int]]:
            lost = [
                key
                for key in keys
                if not transaction.execute(
                    "UPDATE claims SET ends = ?, expires = ?"
                    " WHERE id = ? AND attempt = ? AND holder = ? AND NOT is_done",
                    (now + lease, now + lease + CLAIM_KEPT, *key, holder),
                ).rowcount
            ]
            take_back_deaths(transaction, lost, holder)
            if row is not None:
                renew_presence(transaction, row.key, row.row, now + row.lease)
            return lost

        return self.database.write_here(renew_all, min(self.database.timeout, max(lease / 3, 1.0)))

    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: [close(transaction, closing, holder, now) for closing in closings]
        )

    async def forget(self, ids: Sequence[str]) -> None:
        def forget(transaction: Transaction) -> None:
            for chunk in in_chunks(ids):
                transaction.execute(f"DELETE FROM claims WHERE id IN ({marks(len(chunk))}) AND is_done", chunk)

        await self.database.write(forget)

    async def change_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: [change_schedule(transaction, change, now) != "refused" for change in changes]
        )

    async def schedules(self, scope: str, names: Sequence[str] | None = None) -> Sequence[ScheduleRow]:
        return await self.database.read(lambda connection: read_schedules(connection, scope, names))

    async def keys(self, names: Sequence[str]) -> Sequence[ScheduleRow]:
        now = self.clock.time()
        return await self.database.read(lambda connection: read_keys(connection, names, now))

    async def schedules_revision(self, scope: str) -> int:
        return await self.database.read(lambda connection: read_revision(connection, scope))

    async def time(self) -> float:
        return self.clock.time()

    async def _open_joins(self, joins: Sequence[Join]) -> None:
        now = self.clock.time()
        await self.database.write(lambda transaction: open_joins(transaction, joins, now))

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        if not join_ids:
            return ()
        now = self.clock.time()
        found = await self.database.read(lambda connection: joined(connection, join_ids, now))
        return [found.get(join_id) for join_id in join_ids]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        now = self.clock.time()
        look = partial(look_for_overdue, limit=limit, now=now)
        is_more, found = True, list[str]()
        while is_more:
            found, wrong, is_more = await self.database.read(look)
            if wrong:
                await self.database.write(partial(put_right, numbers=wrong), durable=False)
        return found

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        now = self.clock.time()
        return await self.database.write(lambda transaction: [book(transaction, each, now) for each in bookings])

    async def acquire_permits(self, permits: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: acquire(transaction, permits, holder, now, lease), durable=False
        )

    def renew_permits(self, permits: Collection[Permit], holder: str, lease: float) -> None:
        ends = self.clock.time() + lease
        self.database.write_here(
            lambda transaction: renew(transaction, permits, holder, ends),
            min(self.database.timeout, max(lease / 3, 1.0)),
        )

    async def hand_over_permits(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        if not (released or waiting) and not await self.database.read(_is_any_waiting):
            return ()
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: hand_over(transaction, released, waiting, holder, limits, now), durable=False
        )

    def renew_presence(self, key: str, row: bytes, lease: float) -> None:
        now = self.clock.time()
        self.database.write_here(
            lambda transaction: renew_presence(transaction, key, row, now + lease),
            min(self.database.timeout, max(lease / 3, 1.0)),
        )

    async def end_presence(self, key: str) -> None:
        await self.database.write(lambda transaction: end_presence(transaction, key), durable=False)

    async def fleet(self) -> Sequence[Presence]:
        now = self.clock.time()
        return await self.database.read(lambda connection: read_fleet(connection, now))

    async def pause_queue(self, name: str, since: float) -> bool:
        return await self.database.write(
            lambda transaction: (
                transaction.execute("INSERT OR IGNORE INTO paused (queue, since) VALUES (?, ?)", (name, since)).rowcount
                > 0
            )
        )

    async def resume_queue(self, name: str) -> bool:
        return await self.database.write(
            lambda transaction: transaction.execute("DELETE FROM paused WHERE queue = ?", (name,)).rowcount > 0
        )

    async def paused_queues(self) -> Mapping[str, float]:
        return await self.database.read(lambda connection: dict(connection.execute("SELECT queue, since FROM paused")))

    async def _read_revocations(self) -> None:
        seen = self._seen
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT seq, id FROM revocations WHERE seq > ? AND is_terminating ORDER BY seq", (seen,)
            ).fetchall()
        )
        if rows:
            self._seen = rows[-1][0]
            self.on_revoked([task_id for _, task_id in rows])

    def _purge(self, transaction: Transaction) -> bool:
        """Delete a batch of what is expired; return whether there may be more."""
        now = self.clock.time()
        transaction.execute("DELETE FROM permits WHERE ends <= ?", (now,))
        transaction.execute("DELETE FROM waiting WHERE expires <= ?", (now,))
        purge_fleet(transaction, now)
        is_more = purge_joins(transaction, now, BATCH)
        for table, number in (("claims", "rowid"), ("revocations", "seq"), ("starts", "name"), ("keys", "rowid")):
            is_more = delete_expired(transaction, table, number, "expires", now) or is_more
        return is_more


def _is_any_waiting(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM waiting)").fetchone()[0])


def _last_revocation(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'revocations'").fetchone()
    return row[0] if row is not None else 0
