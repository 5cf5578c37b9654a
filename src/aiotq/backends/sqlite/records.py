"""Results in a SQLite file, for several processes of one machine (P3, P8).

Here is the contract's face of it, with listening and upkeep. `sqlite_records`, `sqlite_joins` and `sqlite_claims` are
functions on a `Transaction`, which `commit.sqlite` composes with the broker's.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Self

from ...core.aio import Service
from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import OperationalError
from ...results.base import Booking, Caution, Claim, Closing, Join, Joined, Permit, Record, ResultStore
from ...results.join_checks import check_joining, check_joins
from ...states import READY_STATES
from ...wire.message import Envelope
from .claims import CLAIM_KEPT, claim_all, close, take_back_deaths
from .connection import Database
from .joins import joined, look_for_overdue, open_joins, purge_joins, put_right
from .mailbox import RECORDS, REVOCATIONS
from .permits import acquire_permits, hand_over_permits, keep
from .record_rows import RECORD, Seen, last_numbers, mail, write_records
from .sql import Transaction, in_chunks, marks
from .starts import book

logger = logging.getLogger("aiotq.results.sqlite")

#: Seconds for which a watched id is remembered without being renewed, which happens far more often.
WATCH_EXPIRES: Final = 3600.0
#: Seconds between purges of what is expired, by each process; about four before a listener or a watch expires.
UPKEEP_INTERVAL: Final = 60.0
#: Rows that one purge takes.
BATCH: Final = 1000


class SQLiteStore(ResultStore):
    """Results in a SQLite file."""

    def __init__(self, database: Database, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.database = database
        self.clock = clock
        self.on_push = _ignore
        self.on_revoked = _ignore
        self.on_missed = _ignore
        self._service: Service[None] | None = None
        self._watched: dict[str, None] = {}
        self._news = asyncio.Event()
        self._about = 0
        self._seen: Seen = (0, 0, 0)
        #: While nobody listened there was mail; the next `get` tells where to go on reading.
        self._is_behind = True

    @property
    def address(self) -> str:
        return self.database.address

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        try:
            self._seen = await self.database.read(last_numbers)
            self._is_behind = False
            self._service = Service(self._listen, "aiotq.results.sqlite")
            self.database.add_hearer(self._hear)
            await self._service.start()
        except BaseException:
            self.database.remove_hearer(self._hear)
            await self.database.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.database.remove_hearer(self._hear)
        try:
            if self._service is not None:
                await self._service.abort()
            if self._watched:
                try:
                    await self.database.write(self._unwatch_all, durable=False)
                except OperationalError as exc:
                    logger.warning("can't end watching, it ends within the hour: %s", exc)
        finally:
            self._watched.clear()
            await self.database.__aexit__(*exc_info)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        is_behind = self._is_behind
        wanted, now = list(dict.fromkeys(ids)), self.clock.time()

        def get(connection: sqlite3.Connection) -> tuple[Seen, dict[str, Record]]:
            # Before the records: what is written in between is seen twice, and not missed.
            last = last_numbers(connection) if is_behind else (0, 0, 0)
            found: dict[str, Record] = {}
            for chunk in in_chunks(wanted):
                rows = connection.execute(
                    f"SELECT {RECORD} FROM results WHERE id IN ({marks(len(chunk))}) AND expires > ?",
                    (*chunk, now),
                )
                found.update((row[0], Record(*row)) for row in rows.fetchall())
            return last, found

        (updates, results, _), found = await self.database.read(get)
        if is_behind and self._is_behind:
            self._seen = (updates, results, self._seen[2])
            self._is_behind = False
        return [found.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        if not records:
            return
        now = self.clock.time()
        is_terminal = any(record.state in READY_STATES for record in records)
        await self.database.write(lambda transaction: write_records(transaction, records, now), durable=is_terminal)

    async def forget(self, ids: Sequence[str]) -> None:
        def forget(transaction: Transaction) -> None:
            for chunk in in_chunks(ids):
                where = f"WHERE id IN ({marks(len(chunk))})"
                transaction.execute(f"DELETE FROM results {where}", chunk)
                transaction.execute(f"DELETE FROM claims {where} AND is_done", chunk)

        await self.database.write(forget)

    async def watch(self, task_id: str) -> None:
        self._watched[task_id] = None
        row = (task_id, self.address, self.clock.time() + WATCH_EXPIRES)
        await self.database.write(
            lambda transaction: transaction.insert("INSERT OR REPLACE INTO watchers (id, address, expires)", [row]),
            durable=False,
        )

    async def unwatch(self, task_id: str) -> None:
        self._watched.pop(task_id, None)
        await self.database.write(
            lambda transaction: (
                transaction.execute(
                    "DELETE FROM watchers WHERE id = ? AND address = ?", (task_id, self.address)
                ).rowcount
            ),
            durable=False,
        )

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
                transaction.wake_all()

        await self.database.write(revoke)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        def unrevoke(transaction: Transaction) -> None:
            for chunk in in_chunks(ids):
                transaction.execute(f"DELETE FROM revocations WHERE id IN ({marks(len(chunk))})", chunk)

        await self.database.write(unrevoke)

    async def has_revocations(self) -> bool:
        query = "SELECT EXISTS (SELECT 1 FROM revocations WHERE expires > ?)"
        now = self.clock.time()
        (found,) = await self.database.read(lambda connection: connection.execute(query, (now,)).fetchone())
        return bool(found)

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        if not ids:
            return ()
        now = self.clock.time()
        return await self.database.read(lambda connection: _revoked_ids(connection, ids, now))

    async def claim(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None = None
    ) -> Sequence[Claim]:
        now = self.clock.time()
        return await self.database.write(lambda transaction: claim_all(transaction, keys, holder, now, lease, caution))

    def renew_claims(self, keys: Sequence[tuple[str, int]], holder: str, lease: float) -> Collection[tuple[str, int]]:
        now = self.clock.time()

        def renew(transaction: Transaction) -> list[tuple[str, int]]:
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
            return lost

        return self.database.write_here(renew, min(self.database.timeout, max(lease / 3, 1.0)))

    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        for closing in closings:
            check_joining(closing.joining, closing.record)
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: [close(transaction, closing, holder, now) for closing in closings]
        )

    async def open_joins(self, joins: Sequence[Join]) -> None:
        check_joins(joins)
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

    async def acquire_permits(self, seats: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: acquire_permits(transaction, seats, holder, now, lease), durable=False
        )

    def renew_permits(self, seats: Collection[Permit], holder: str, lease: float) -> None:
        ends = self.clock.time() + lease
        self.database.write_here(
            lambda transaction: keep(transaction, seats, holder, ends), min(self.database.timeout, max(lease / 3, 1.0))
        )

    async def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        if not (left or seeking) and not await self.database.read(self._is_sought):
            return ()
        now = self.clock.time()
        return await self.database.write(
            lambda transaction: hand_over_permits(transaction, left, seeking, holder, limits, now), durable=False
        )

    def _hear(self, about: int) -> None:
        if about & RECORDS and not self.listening:
            self._is_behind = True
            about &= ~RECORDS
        if about & (RECORDS | REVOCATIONS):
            self._about |= about
            self._news.set()

    async def _listen(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        """Read what this process is told, when it is woken and now and then; purge what is expired."""
        loop = asyncio.get_running_loop()
        ready(None)
        next_upkeep = loop.time() + UPKEEP_INTERVAL / 10
        while not stopping.is_set():
            try:
                async with asyncio.timeout(self.database.pause()):
                    await self._news.wait()
            except TimeoutError:
                self._about = RECORDS | REVOCATIONS
            self._news.clear()
            about, self._about = self._about, 0
            try:
                if about & REVOCATIONS and self.on_revoked is not _ignore:
                    await self._read_revocations()
                if about & RECORDS and self.listening and not self._is_behind:
                    await self._read_mail()
                if loop.time() >= next_upkeep:
                    next_upkeep = loop.time() + UPKEEP_INTERVAL
                    await self._keep_up()
            except OperationalError as exc:
                logger.warning("can't read what is new, trying again: %s", exc)
                self._about |= about
                await asyncio.sleep(self.database.pause())
            except Exception:  # a listener's defect must not end listening
                logger.exception("a listener failed; listening goes on")

    async def _read_mail(self) -> None:
        address, is_watching = self.address, bool(self._watched)
        is_more = True
        while is_more:
            read = partial(mail, address=address, is_watching=is_watching, seen=self._seen)
            records, self._seen, is_more = await self.database.read(read)
            if records:
                self.on_push(records)

    async def _read_revocations(self) -> None:
        seen = self._seen[2]
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT seq, id FROM revocations WHERE seq > ? AND is_terminating ORDER BY seq", (seen,)
            ).fetchall()
        )
        if rows:
            self._seen = (*self._seen[:2], rows[-1][0])
            self.on_revoked([task_id for _, task_id in rows])

    async def _keep_up(self) -> None:
        await self.database.refresh()
        while await self.database.write(self._purge, durable=False):
            pass

    def _purge(self, transaction: Transaction) -> bool:
        """Delete a batch of what is expired; return whether there may be more."""
        now = self.clock.time()
        if self._watched:
            transaction.execute(
                "UPDATE watchers SET expires = ? WHERE address = ?", (now + WATCH_EXPIRES, self.address)
            )
        transaction.execute("DELETE FROM watchers WHERE expires <= ?", (now,))
        transaction.execute("DELETE FROM seats WHERE ends <= ?", (now,))
        transaction.execute("DELETE FROM seekers WHERE expires <= ?", (now,))
        is_more = False
        for table, number, when in (
            ("results", "seq", "expires"),
            ("updates", "seq", "gone"),
            ("claims", "rowid", "expires"),
            ("revocations", "seq", "expires"),
            ("starts", "name", "expires"),
        ):
            chosen = f"SELECT {number} FROM {table} WHERE {when} <= ? LIMIT {BATCH}"
            deleted = transaction.execute(f"DELETE FROM {table} WHERE {number} IN ({chosen})", (now,)).rowcount
            is_more = is_more or deleted == BATCH
        return purge_joins(transaction, now, BATCH) or is_more

    @staticmethod
    def _is_sought(connection: sqlite3.Connection) -> bool:
        return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM seekers)").fetchone()[0])

    def _unwatch_all(self, transaction: Transaction) -> None:
        transaction.execute("DELETE FROM watchers WHERE address = ?", (self.address,))


def _revoked_ids(connection: sqlite3.Connection, ids: Sequence[str], now: float) -> set[str]:
    """Return those of `ids` that are revoked."""
    revoked: set[str] = set()
    for chunk in in_chunks(ids):
        revoked.update(
            task_id
            for (task_id,) in connection.execute(
                f"SELECT id FROM revocations WHERE id IN ({marks(len(chunk))}) AND expires > ?",
                (*chunk, now),
            )
        )
    return revoked


def _ignore(_: object) -> None:
    """What a store does with its news while nobody asked for them."""
