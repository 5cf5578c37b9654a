"""The broker in a SQLite file: durable, for several processes of one machine (P1, P2, P4, P5).

Here is the contract's face of it. `sqlite_messages` is what happens to messages, `sqlite_fetch` the order in which they
are read, `sqlite_holders` the leases, `sqlite_consumer` a worker's hold on some queues.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from ...core.aio import finish
from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import MalformedMessage
from ...transport.broker import FAIR, Broker, Consumer, DeadLetter, Delivery, QueueOrder, QueueStats, Settlement
from ...wire.message import Envelope, Message, unpack
from .connection import Database
from .consumer import SQLiteConsumer
from .messages import (
    BATCH,
    add_dead,
    delayed_envelopes,
    encode,
    insert,
    make_due_now,
    ready_envelopes,
    remove_delayed,
    settle,
)
from .schema import DELAYED, FREE, LANED
from .sql import Transaction

DEAD_LETTER_RETENTION: Final = 30 * 86_400.0

_LETTER: Final = "number, queue, priority, data, reason, detail, died_at, deaths"


class SQLiteBroker(Broker):
    """A broker in a SQLite file."""

    can_make_due_now = True

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock = SYSTEM_CLOCK,
        dead_letter_retention: float = DEAD_LETTER_RETENTION,
    ) -> None:
        self.database = database
        self.clock = clock
        self.dead_letter_retention = dead_letter_retention

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.database.__aexit__(*exc_info)

    async def send(self, batch: Sequence[Envelope]) -> None:
        if batch:
            rows = encode(batch, self.clock.time())
            await self.database.write(lambda transaction: insert(transaction, rows))

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer, None]:
        consumer = SQLiteConsumer(
            self.database,
            self.clock,
            name,
            queues,
            lease=lease,
            order=order,
            dead_letter_retention=self.dead_letter_retention,
        )
        await consumer.enter()
        try:
            yield consumer
        finally:
            await finish(consumer.leave(), self.database.timeout * 2)

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        now = self.clock.time()
        return await self.database.write(lambda transaction: settle(transaction, settlements, now))

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        if not keys:
            return ()
        now = self.clock.time()
        return await self.database.write(lambda transaction: [make_due_now(transaction, key, now) for key in keys])

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        now = self.clock.time()
        return await self.database.read(lambda connection: _stats(connection, queues, now))

    async def delayed(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        now = self.clock.time()
        return await self.database.read(lambda connection: delayed_envelopes(connection, queue, now, limit))

    async def ready(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        now = self.clock.time()
        return await self.database.read(lambda connection: ready_envelopes(connection, queue, now, limit))

    async def remove_delayed(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        return await self.database.write(
            lambda transaction: [remove_delayed(transaction, key) for key in keys] if keys else []
        )

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await self.database.write(lambda transaction: add_dead(transaction, letters))

    async def purge(self, queue: str) -> int:
        def purge_some(transaction: Transaction) -> int:
            chosen = " UNION ALL ".join(
                f"SELECT * FROM (SELECT seq FROM messages WHERE {state} AND queue = :queue LIMIT {BATCH})"
                for state in (
                    f"holder = {FREE} AND is_suspect = 0",
                    f"holder = {FREE} AND is_suspect <> 0",
                    f"holder = {LANED}",
                    f"holder = {DELAYED}",
                )
            )
            return transaction.execute(f"DELETE FROM messages WHERE seq IN ({chosen})", {"queue": queue}).rowcount

        purged = 0
        while count := await self.database.write(purge_some):
            purged += count
        return purged

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        where, values = ("WHERE queue = ? AND", (queue,)) if queue is not None else ("WHERE", ())
        oldest = self.clock.time() - self.dead_letter_retention
        rows = await self.database.read(
            lambda connection: connection.execute(
                f"SELECT {_LETTER} FROM dead {where} died_at > ? ORDER BY number DESC LIMIT ?",
                (*values, oldest, limit),
            ).fetchall()
        )
        return [_letter(row) for row in rows]

    async def dead_letter(self, key: str) -> DeadLetter | None:
        oldest = self.clock.time() - self.dead_letter_retention
        return await self.database.read(lambda connection: _find_letter(connection, key, oldest))

    async def replay(self, keys: Sequence[str]) -> int:
        now = self.clock.time()

        def replay_all(transaction: Transaction) -> int:
            replayed = 0
            for key in keys:
                letter = _find_letter(transaction.connection, key, now - self.dead_letter_retention)
                if letter is not None and letter.message is not None:
                    insert(transaction, encode([Envelope(letter.message, letter.queue, letter.priority)], now))
                    transaction.execute("DELETE FROM dead WHERE number = ?", (int(letter.key),))
                    replayed += 1
            return replayed

        return await self.database.write(replay_all)

    async def remove_dead(self, keys: Sequence[str]) -> int:
        numbers = [(int(key),) for key in keys if key.isdecimal() and len(key) < 19]
        return await self.database.write(
            lambda transaction: sum(
                transaction.execute("DELETE FROM dead WHERE number = ?", number).rowcount for number in numbers
            )
        )

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        conditions = {"queue = ?": queue, "died_at < ?": before}
        where = " AND ".join(text for text, wanted in conditions.items() if wanted is not None) or "1"
        values = [wanted for wanted in conditions.values() if wanted is not None]

        def purge_some(transaction: Transaction) -> int:
            chosen = f"SELECT number FROM dead WHERE {where} LIMIT {BATCH}"
            return transaction.execute(f"DELETE FROM dead WHERE number IN ({chosen})", values).rowcount

        purged = 0
        while count := await self.database.write(purge_some):
            purged += count
        return purged


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    number, queue, priority, raw, reason, detail, died_at, deaths = row
    message: Message | None
    try:
        message = unpack(raw)
    except MalformedMessage:
        message = None
    return DeadLetter(str(number), queue, priority, message, raw, reason, detail, died_at, deaths)


def _find_letter(connection: sqlite3.Connection, key: str, oldest: float) -> DeadLetter | None:
    """Return the dead letter with this key, or the newest of the task with this id."""
    row = connection.execute(
        f"SELECT {_LETTER} FROM dead WHERE (id = :id OR number = :number) AND died_at > :oldest"
        " ORDER BY number IS :number DESC, number DESC LIMIT 1",
        {"id": key, "number": int(key) if key.isdecimal() and len(key) < 19 else None, "oldest": oldest},
    ).fetchone()
    return _letter(row) if row is not None else None


def _stats(connection: sqlite3.Connection, wanted: Collection[str] | None, now: float) -> list[QueueStats]:
    ready: dict[str, int] = {}
    oldest: dict[str, float] = {}

    def count(queue: str, many: int, since: float | None) -> None:
        ready[queue] = ready.get(queue, 0) + many
        if since is not None:
            oldest[queue] = min(since, oldest.get(queue, since))

    # The oldest of each rank stands first in it; only the index is read, and a row for each rank.
    for queue, many, seq in connection.execute(
        f"SELECT queue, count(*), min(seq) FROM messages INDEXED BY ready"
        f" WHERE holder = {FREE} AND is_suspect = 0 GROUP BY queue, rank"
    ).fetchall():
        row = connection.execute("SELECT since FROM messages WHERE seq = ?", (seq,)).fetchone()
        count(queue, many, row[0] if row is not None else None)
    for queue, many, since in connection.execute(
        f"SELECT queue, count(*), min(since) FROM messages WHERE holder = {FREE} AND is_suspect <> 0 GROUP BY queue"
    ):
        count(queue, many, since)
    for queue, many, since in connection.execute(
        f"SELECT queue, count(*), min(since) FROM messages INDEXED BY fair WHERE holder = {LANED} GROUP BY queue"
    ):
        count(queue, many, since)
    delayed: dict[str, int] = {}
    for queue, many, due, since in connection.execute(
        f"SELECT queue, count(*), sum(since <= ?), min(since) FROM messages INDEXED BY delayed"
        f" WHERE holder = {DELAYED} GROUP BY queue",
        (now,),
    ):
        delayed[queue] = many - due
        if due:
            count(queue, due, since)
    leased = dict(connection.execute(f"SELECT queue, count(*) FROM messages WHERE holder > {DELAYED} GROUP BY queue"))
    dead = dict(connection.execute("SELECT queue, count(*) FROM dead GROUP BY queue"))
    return [
        QueueStats(
            name,
            ready.get(name, 0),
            leased.get(name, 0),
            delayed.get(name, 0),
            dead.get(name, 0),
            max(0.0, now - oldest[name]) if name in oldest else None,
        )
        for name in sorted(set(wanted) if wanted is not None else {*ready, *delayed, *leased, *dead})
    ]
