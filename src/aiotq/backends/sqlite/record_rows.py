"""Records in the file: writing states, and reading as mail what a process is told of.

A change of a record is a new row with a higher number, so a process reads its mail by asking for what is behind the
last number it saw.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from ...results.records import RESULTS, Record
from ...states import READY_STATES
from .finished import write_entries
from .sql import Transaction, ids_in, in_chunks, marks

#: Seconds for which the states that a task went through can be read as mail; the newest stands among the results.
UPDATE_KEPT: Final = 60.0
#: Rows that one read of mail takes.
_BATCH: Final = 1000

RECORD: Final = "id, state, body, content_type, expires, reply_to"
#: The last numbers read of `updates` and `results`.
Seen = tuple[int, int]


def write_records(transaction: Transaction, records: Sequence[Record], now: float) -> None:
    """Store states, unless a terminal one stands already; wake who is told of them."""
    over = ids_in(transaction.connection, "results", [record.id for record in records], now, "is_ready")
    newest: dict[str, Record] = {}
    updates: list[Record] = []
    for record in records:
        if record.id in over:
            continue
        newest[record.id] = record
        if record.state in READY_STATES:
            over.add(record.id)
        else:
            updates.append(record)
    if not newest:
        return
    transaction.insert(
        "INSERT OR REPLACE INTO results (id, state, is_ready, reply_to, content_type, expires, body)",
        [
            (
                record.id,
                record.state,
                int(record.state in READY_STATES),
                record.reply_to,
                record.content_type,
                record.expires,
                record.body,
            )
            for record in newest.values()
        ],
    )
    write_entries(transaction, (each.entry for each in newest.values() if each.entry is not None), now)
    watched = _wake_watchers(transaction, list(newest))
    for record in newest.values():
        if record.reply_to is not None:
            transaction.tell(record.reply_to, RESULTS)
    gone = now + UPDATE_KEPT
    transaction.insert(
        "INSERT INTO updates (gone, id, state, reply_to, content_type, expires, body)",
        [
            (gone, each.id, each.state, each.reply_to, each.content_type, each.expires, each.body)
            for each in updates
            if watched or each.reply_to is not None
        ],
    )


def mail(
    connection: sqlite3.Connection, address: str, is_watching: bool, seen: Seen
) -> tuple[list[Record], Seen, bool]:
    """Return records for `address` behind what was seen, what is seen then, and whether there is more.

    What a task went through comes before how it ended: both are read in one snapshot.
    """
    for_us, values = "reply_to = ?", [address]
    if is_watching:
        for_us, values = f"({for_us} OR id IN (SELECT id FROM watchers WHERE address = ?))", [address] * 2
    connection.execute("BEGIN")
    try:
        last_update, last_result = last_numbers(connection)
        rows: list[Any] = connection.execute(
            f"SELECT {RECORD}, seq FROM updates WHERE seq > ? AND {for_us} ORDER BY seq LIMIT {_BATCH}",
            (seen[0], *values),
        ).fetchall()
        if len(rows) == _BATCH:
            return [Record(*row) for row in rows], (rows[-1][-1], seen[1]), True
        ended: list[Any] = connection.execute(
            f"SELECT {RECORD}, seq FROM results WHERE seq > ? AND is_ready AND {for_us} ORDER BY seq LIMIT {_BATCH}",
            (seen[1], *values),
        ).fetchall()
    finally:
        connection.execute("COMMIT")
    is_more = len(ended) == _BATCH
    last_result = ended[-1][-1] if is_more else last_result
    records = [*(Record(*row) for row in rows), *(Record(*row[:-1]) for row in ended)]
    return records, (last_update, last_result), is_more


def last_numbers(connection: sqlite3.Connection) -> Seen:
    """Return the last numbers given in `updates` and `results`."""
    last = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    return last.get("updates", 0), last.get("results", 0)


def _wake_watchers(transaction: Transaction, ids: Sequence[str]) -> bool:
    """Wake who watches `ids`; return whether anybody watches anything."""
    (is_watched,) = transaction.execute("SELECT EXISTS (SELECT 1 FROM watchers)").fetchone()
    if is_watched:
        for chunk in in_chunks(ids):
            for (address,) in transaction.execute(
                f"SELECT DISTINCT address FROM watchers WHERE id IN ({marks(len(chunk))})", chunk
            ):
                transaction.tell(address, RESULTS)
    return bool(is_watched)
