"""What waits by key (see `transport.shares`): rows with the holder `LANED`, in the order of their tags.

A table has the last tag of each key; those up to the tag of the first that waits say nothing, and are deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Final

from ...transport.broker import SUSPECT_DEATHS
from .schema import DELAYED, LANED
from .sql import Transaction

#: holder, queue, rank, priority, since, id, attempt, data, key, cost
LanedRow = tuple[int, str, int, int, float, str, int, bytes, str, float]
#: seq, queue, priority, deaths, charges, returns, data, rank
Fetched = tuple[int, str, int, int, int, int, bytes | None, int]
#: Types are cast, since whatever writes to the file might have put others there; a text that can't be decoded would
#: fail the read of its neighbours too.
FETCHED: Final = (
    "m.seq, m.queue, CAST(m.priority AS INTEGER), CAST(m.deaths AS INTEGER), CAST(m.charges AS INTEGER), "
    "CAST(m.returns AS INTEGER), CASE typeof(m.data) WHEN 'blob' THEN m.data END, CAST(m.rank AS INTEGER)"
)
_INSERT: Final = (
    "INSERT OR IGNORE INTO messages (holder, queue, rank, priority, since, id, attempt, data, share, cost, tag)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_WAITING: Final = f"FROM messages AS m INDEXED BY fair WHERE m.holder = {LANED} AND m.queue = ?"


class Tags:
    """The tags that one transaction gives."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._firsts: dict[tuple[str, int], float] = {}

    def next(self, queue: str, rank: int, key: str, cost: float) -> float:
        """Return the tag of one more call of `key`."""
        first = self._first(queue, rank)
        row = self._transaction.execute(
            "SELECT last FROM shares WHERE queue = ? AND rank = ? AND key = ?", (queue, rank, key)
        ).fetchone()
        return max(first, row[0] if row is not None else 0.0) + cost

    def note(self, queue: str, rank: int, key: str, tag: float) -> None:
        """Note that `key` has a call with this tag."""
        self._transaction.execute("INSERT OR REPLACE INTO shares VALUES (?, ?, ?, ?)", (queue, rank, key, tag))

    def _first(self, queue: str, rank: int) -> float:
        first = self._firsts.get((queue, rank))
        if first is None:
            execute = self._transaction.execute
            row = execute(f"SELECT m.tag {_WAITING} AND m.rank = ? ORDER BY m.tag LIMIT 1", (queue, rank)).fetchone()
            if row is None:
                execute("DELETE FROM shares WHERE queue = ? AND rank = ?", (queue, rank))
            else:
                execute("DELETE FROM shares WHERE queue = ? AND rank = ? AND last <= ?", (queue, rank, row[0]))
            first = self._firsts[queue, rank] = float(row[0]) if row is not None else 0.0
        return first


def insert(transaction: Transaction, rows: Iterable[LanedRow]) -> None:
    """Put messages that have keys into their lanes, or among what is delayed."""
    tags = Tags(transaction)
    for row in rows:
        holder, queue, rank, key, cost = row[0], row[1], row[2], row[8], row[9]
        if holder == DELAYED:
            transaction.execute(_INSERT, (*row, None))
            continue
        tag = tags.next(queue, rank, key, cost)
        if transaction.execute(_INSERT, (LANED, *row[1:], tag)).rowcount:
            tags.note(queue, rank, key, tag)


def move_due(transaction: Transaction, queue: str, now: float, most: int) -> None:
    """Move what is due in `queue` and was never taken to the lanes of its keys, in the order of the due times."""
    tags = Tags(transaction)
    due = transaction.execute(
        "SELECT seq, priority, share, cost FROM messages INDEXED BY delayed"
        f" WHERE holder = {DELAYED} AND queue = ? AND since <= ? AND share IS NOT NULL ORDER BY since, seq LIMIT ?",
        (queue, now, most),
    ).fetchall()
    for seq, rank, key, cost in due:
        tag = tags.next(queue, rank, key, cost)
        transaction.execute(f"UPDATE messages SET holder = {LANED}, tag = ? WHERE seq = ?", (tag, seq))
        tags.note(queue, rank, key, tag)


def is_any(connection: sqlite3.Connection, queues: Iterable[str]) -> bool:
    """Whether anything waits by key in `queues`."""
    return any(connection.execute(f"SELECT 1 {_WAITING} LIMIT 1", (queue,)).fetchone() for queue in queues)


def tidy(transaction: Transaction, queues: Iterable[str]) -> None:
    """Forget the keys of those `queues` in which nothing waits by key any more."""
    for queue in queues:
        if not is_any(transaction.connection, [queue]):
            transaction.execute("DELETE FROM shares WHERE queue = ?", (queue,))


def first_of(connection: sqlite3.Connection, queue: str, limit: int, *, upwards: bool) -> list[Fetched]:
    """Return what is next in the lanes of `queue`, of each of them at most `limit`."""
    extreme, beyond, rank = ("min", ">", -1) if upwards else ("max", "<", 1 << 30)
    found: list[Fetched] = []
    while len(found) < limit:
        (next_rank,) = connection.execute(
            f"SELECT {extreme}(m.rank) {_WAITING} AND m.rank {beyond} ?", (queue, rank)
        ).fetchone()
        if next_rank is None:
            break
        rank = next_rank
        order = "AND m.rank = ? ORDER BY m.tag, m.seq LIMIT ?"
        found += connection.execute(f"SELECT {FETCHED} {_WAITING} {order}", (queue, rank, limit)).fetchall()
    return found


def in_turn(plain: Sequence[Fetched], laned: Sequence[Fetched], order: Sequence[str], *, lanes_first: bool,
            upwards: bool, again: int, is_strict: bool) -> list[Fetched]:  # fmt: skip
    """Return both in one order: of a queue and a rank, one of its lane and a plain one in turn.

    `order` has the queues as they are read, `again` is the rank of what was handed back. A suspect stays in front.
    """
    turns = {queue: turn for turn, queue in enumerate(order)}

    def level(row: Fetched) -> tuple[int, int]:
        rank = -1 if row[7] == again else row[7] if upwards else again - row[7]
        turn = turns.get(row[1], len(turns))
        return (turn, rank) if is_strict else (rank, turn)

    suspects = [row for row in plain if row[3] >= SUSPECT_DEATHS]
    places: list[tuple[tuple[int, int], int, bool, Fetched]] = []
    others = [row for row in plain if row[3] < SUSPECT_DEATHS]
    for is_plain, rows in ((False, laned), (True, others)):
        for _, of_level in groupby(rows, key=level):
            places += [(level(row), n, is_plain is lanes_first, row) for n, row in enumerate(of_level)]
    places.sort(key=lambda place: place[:3])
    return list(chain(suspects, (row for *_, row in places)))
