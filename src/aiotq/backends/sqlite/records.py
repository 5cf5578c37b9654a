"""Records in a SQLite file, for several processes of one machine.

Here is the contract's face of it, with listening and upkeep. `record_rows` are functions on a `Transaction`, which the
ledger and the commit compose with theirs.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import OperationalError
from ...results.index import FinishedPage, FinishedQuery
from ...results.records import RESULTS, Record, RecordStore
from ...states import READY_STATES
from . import finished
from .connection import Database
from .listening import Listening, delete_expired
from .record_rows import RECORD, Seen, last_numbers, mail, write_records
from .sql import Transaction, in_chunks, marks

logger = logging.getLogger("aiotq.results.sqlite")

#: Seconds for which a watched id is remembered without being renewed, which happens far more often.
WATCH_EXPIRES: Final = 3600.0


class SQLiteRecords(RecordStore):
    """A record store in a SQLite file. A push is a message on the bus that says no more than "look"."""

    is_pushing = True
    has_index = True

    def __init__(self, database: Database, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self.database = database
        self.clock = clock
        self._watched: dict[str, int] = {}  #: ids, each with the last number of `updates` before it was watched
        self._seen: Seen = (0, 0)
        #: While nobody listened there was mail; the next `get` tells where to go on reading.
        self._is_behind = True
        self._listening: Listening | None = None

    @property
    def address(self) -> str:
        return self.database.address

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        try:
            self._seen = await self.database.read(last_numbers)
            self._is_behind = False
            self._listening = Listening(
                self.database, "records", RESULTS, self._read_mail, self._purge, is_wanted=self._is_mail_wanted
            )
            await self._listening.start()
        except BaseException:
            await self.database.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._listening is not None:
                await self._listening.stop()
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
        wanted, now = list(dict.fromkeys(ids)), self.clock.time()

        def get(connection: sqlite3.Connection) -> tuple[Seen, dict[str, Record]]:
            # Before the records: what is written in between is seen twice, and not missed.
            last = last_numbers(connection)
            found: dict[str, Record] = {}
            for chunk in in_chunks(wanted):
                rows = connection.execute(
                    f"SELECT {RECORD}, ? FROM results WHERE id IN ({marks(len(chunk))}) AND expires > ?",
                    (last[0], *chunk, now),
                )
                found.update((row[0], Record(*row)) for row in rows.fetchall())
            return last, found

        last, found = await self.database.read(get)
        if self._is_behind:
            self._seen = last
            self._is_behind = False
        return [found.get(task_id) for task_id in ids]

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        wanted, now = list(dict.fromkeys(ids)), self.clock.time()

        def read(connection: sqlite3.Connection) -> dict[str, str]:
            found: dict[str, str] = {}
            for chunk in in_chunks(wanted):
                sql = f"SELECT id, state FROM results WHERE id IN ({marks(len(chunk))}) AND expires > ?"
                found.update(connection.execute(sql, (*chunk, now)).fetchall())
            return found

        found = await self.database.read(read) if wanted else {}
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
                transaction.execute(f"DELETE FROM results WHERE id IN ({marks(len(chunk))})", chunk)

        await self.database.write(forget)

    async def find(self, query: FinishedQuery) -> FinishedPage:
        return await finished.find(self.database, query, self.clock.time())

    async def unlist(self, keys: Sequence[str]) -> int:
        return await self.database.write(lambda transaction: finished.unlist(transaction, keys))

    async def watch(self, task_id: str) -> None:
        row = (task_id, self.address, self.clock.time() + WATCH_EXPIRES)

        def watch(transaction: Transaction) -> int:
            transaction.insert("INSERT OR REPLACE INTO watchers (id, address, expires)", [row])
            return last_numbers(transaction.connection)[0]

        is_new = task_id not in self._watched
        self._watched.setdefault(task_id, 0)
        last = await self.database.write(watch, durable=False)
        if is_new:
            self._watched[task_id] = last

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

    def _is_mail_wanted(self) -> bool:
        if not self.listening:
            self._is_behind = True
        return self.listening

    async def _read_mail(self) -> None:
        if not self.listening or self._is_behind:
            return
        address, is_watching = self.address, bool(self._watched)
        is_more = True
        while is_more:
            read = partial(mail, address=address, is_watching=is_watching, seen=self._seen)
            found, self._seen, is_more = await self.database.read(read)
            if records := [each for each in found if not self._is_past(each)]:
                self.on_push(records)

    def _is_past(self, record: Record) -> bool:
        """Whether `record` is what another process was told of a task before it was watched here."""
        return 0 < record.order <= self._watched.get(record.id, 0) and record.reply_to != self.address

    def _purge(self, transaction: Transaction) -> bool:
        """Delete a batch of what is expired, and renew what is not; return whether there may be more."""
        now = self.clock.time()
        self.database.bus.register(transaction)
        if self._watched:
            transaction.execute(
                "UPDATE watchers SET expires = ? WHERE address = ?", (now + WATCH_EXPIRES, self.address)
            )
        transaction.execute("DELETE FROM watchers WHERE expires <= ?", (now,))
        is_more = delete_expired(transaction, "results", "seq", "expires", now)
        is_more = finished.delete_old(transaction, now) or is_more
        return delete_expired(transaction, "updates", "seq", "gone", now) or is_more

    def _unwatch_all(self, transaction: Transaction) -> None:
        transaction.execute("DELETE FROM watchers WHERE address = ?", (self.address,))
