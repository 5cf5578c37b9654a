"""The index of what finished, in the file: a row an entry, which stays when its result goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from ...results.index import (
    Chunk,
    FinishedPage,
    FinishedQuery,
    IndexEntry,
    checked,
    pack_finished,
    searched,
    sifted,
)
from .connection import Database
from .sql import Transaction, in_chunks, marks

#: After so many entries those of a state that are too many are deleted, so many at most.
_TRIMMED_EVERY: Final = 500


async def find(database: Database, query: FinishedQuery, now: float) -> FinishedPage:
    """Return the page that `query` asks for; raises `InvalidOption`."""
    query = checked(query)
    counts = await database.read(_counts)

    async def read(query: FinishedQuery, before: str | None, count: int) -> Chunk:
        return await database.read(partial(_read, query=query, before=before, count=count, now=now))

    return await searched(query, read, counts)


def write_entries(transaction: Transaction, entries: Iterable[IndexEntry], now: float) -> None:
    """Add `entries`; those of their states that are too many go now and then."""
    rows: list[tuple[Any, ...]] = []
    most: dict[str, int] = {}
    for each in entries:
        finished = each.finished
        most[finished.state] = each.bounds.most
        rows.append((finished.state, now + each.bounds.seconds, pack_finished(finished)))
    if not rows:
        return
    transaction.insert("INSERT INTO finished (state, expires, entry)", rows)
    (last,) = transaction.execute("SELECT max(seq) FROM finished").fetchone()
    if last // _TRIMMED_EVERY != (last - len(rows)) // _TRIMMED_EVERY:
        for state, kept in most.items():
            _trim(transaction, state, kept)


def unlist(transaction: Transaction, keys: Sequence[str]) -> int:
    """Delete the entries `keys`; return how many there were."""
    gone = 0
    for chunk in in_chunks([int(key) for key in keys if key.isdecimal()]):
        gone += transaction.execute(f"DELETE FROM finished WHERE seq IN ({marks(len(chunk))})", chunk).rowcount
    return gone


def delete_old(transaction: Transaction, now: float) -> bool:
    """Delete a batch of what is too old; return whether there may be more. They expire about in their order."""
    first = transaction.execute("SELECT expires FROM finished ORDER BY seq LIMIT 1").fetchone()
    if first is None or first[0] > now:
        return False
    chosen = "SELECT seq FROM (SELECT seq, expires FROM finished ORDER BY seq LIMIT ?) WHERE expires <= ?"
    gone = transaction.execute(f"DELETE FROM finished WHERE seq IN ({chosen})", (_TRIMMED_EVERY, now)).rowcount
    return gone == _TRIMMED_EVERY


def _trim(transaction: Transaction, state: str, most: int) -> None:
    beyond = transaction.execute(
        "SELECT seq FROM finished WHERE state = ? ORDER BY seq DESC LIMIT 1 OFFSET ?", (state, most)
    ).fetchone()
    if beyond is not None:
        chosen = "SELECT seq FROM finished WHERE state = ? AND seq <= ? ORDER BY seq LIMIT ?"
        values = (state, beyond[0], 4 * _TRIMMED_EVERY)
        transaction.execute(f"DELETE FROM finished WHERE seq IN ({chosen})", values)


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT state, count(*) FROM finished GROUP BY state").fetchall())


def _read(connection: sqlite3.Connection, query: FinishedQuery, before: str | None, count: int, now: float) -> Chunk:
    # With several states the index of them would have all their rows sorted: the plus keeps it out.
    column = "state" if len(query.states) == 1 else "+state"
    wheres, values = ["expires > ?", f"{column} IN ({marks(len(query.states))})"], list[Any]([now, *query.states])
    if before is not None:
        wheres.append("seq < ?")
        values.append(int(before))
    rows = connection.execute(
        f"SELECT CAST(seq AS TEXT), entry FROM finished WHERE {' AND '.join(wheres)} ORDER BY seq DESC LIMIT ?",
        (*values, count),
    ).fetchall()
    return sifted(query, rows)
