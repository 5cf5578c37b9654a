"""Joins in the file: who has arrived, what is sent when all have, and which wait for too long (P3).

`joins.due` of an open join is a guess, before which it is not overdue: arrivals move `touched` only, and `overdue` puts
the guess right when it looks. Of one that is over it is when it is forgotten.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ...exceptions import MalformedMessage
from ...results.decisions import is_over, join_deadline
from ...results.ledger import Arrival, Join, JoinChanges, Joined, kept_record
from ...results.records import Record
from ...wire.message import Envelope
from .packing import pack_all, unpack_all
from .record_rows import RECORD
from .schedules import change_schedule
from .sql import Transaction, in_chunks, marks

logger = logging.getLogger("aiotq.results.sqlite")

_DEADLINE: Final = "max(touched, until) + patience"
_ARRIVE: Final = f"INSERT OR IGNORE INTO arrivals (join_number, member, {RECORD})"
#: Joins that one look for overdue ones takes.
_BATCH: Final = 1000

#: What arrives at one join: the arrival, and the record that is kept of it.
Arrivals = list[tuple[Arrival, Record]]


def open_joins(transaction: Transaction, joins: Sequence[Join], now: float) -> None:
    """Create joins; one that exists stays as it is."""
    transaction.insert(
        "INSERT OR IGNORE INTO joins (id, size, readers, patience, touched, until, due, about, following)",
        [
            (
                join.id,
                join.size,
                len(join.then),
                join.patience,
                now,
                join.until,
                join_deadline(now, join.until, join.patience),
                join.about,
                pack_all(join.then),
            )
            for join in joins
        ],
    )


def write_joinings(
    transaction: Transaction, joinings: Sequence[tuple[JoinChanges, Record | None]], now: float
) -> tuple[Envelope, ...]:
    """Do what finishes do at joins, each with its record; return the envelopes of those joins that are over by it."""
    opened = [join for joining, _ in joinings for join in joining.opened]
    if opened:
        open_joins(transaction, opened, now)
    for growth in (growth for joining, _ in joinings for growth in joining.grown):
        transaction.execute(
            "UPDATE joins SET size = size + ? WHERE id = ? AND NOT is_over", (growth.count, growth.join_id)
        )
    by_join: dict[str, Arrivals] = {}
    for joining, record in joinings:
        for arrival in joining.arrivals:
            by_join.setdefault(arrival.join_id, []).append((arrival, kept_record(arrival, record)))
    following: tuple[Envelope, ...] = ()
    for join_id, arrivals in by_join.items():
        following += _arrive(transaction, join_id, arrivals, now)
    for extension in (extension for joining, _ in joinings for extension in joining.extended):
        transaction.execute(
            "UPDATE joins SET until = max(until, ?) WHERE id = ? AND NOT is_over", (extension.until, extension.join_id)
        )
    for join_id in (join_id for joining, _ in joinings for join_id in joining.released):
        _release(transaction, join_id)
    for change in (change for joining, _ in joinings for change in joining.keys):
        change_schedule(transaction, change, now)
    return following


def _arrive(transaction: Transaction, join_id: str, arrivals: Arrivals, now: float) -> tuple[Envelope, ...]:
    join = transaction.execute(
        "SELECT number, size, arrived FROM joins WHERE id = ? AND NOT is_over", (join_id,)
    ).fetchone()
    if join is None:
        return ()
    number, size, before = join
    if len(arrivals) > size - before or any(arrival.failed for arrival, _ in arrivals):
        arrived, failing = _arrive_one_by_one(transaction, number, size, before, arrivals)
    else:
        arrived = before + transaction.insert(_ARRIVE, [_row(number, *each) for each in arrivals])
        failing = None
    if is_over(arrived, size, failed=failing is not None):
        return _end(transaction, number, failing, now)
    if arrived > before:
        transaction.execute("UPDATE joins SET arrived = ?, touched = ? WHERE number = ?", (arrived, now, number))
    return ()


def _arrive_one_by_one(
    transaction: Transaction, number: int, size: int, arrived: int, arrivals: Arrivals
) -> tuple[int, str | None]:
    """Let members arrive until the join is over; return how many are there, and which of them failed it."""
    for arrival, record in arrivals:
        if not transaction.insert(_ARRIVE, [_row(number, arrival, record)]):
            continue
        arrived += 1
        if arrival.failed:
            return arrived, arrival.member
        if arrived >= size:
            break
    return arrived, None


def _row(number: int, arrival: Arrival, record: Record) -> tuple[Any, ...]:
    kept = (record.id, record.state, record.body, record.content_type, record.expires, record.reply_to)
    return number, arrival.member, *kept


def _end(transaction: Transaction, number: int, failing: str | None, now: float) -> tuple[Envelope, ...]:
    """Note that a join is over, by all its members or by `failing`; return what is to be sent."""
    (packed,) = transaction.execute("SELECT following FROM joins WHERE number = ?", (number,)).fetchone()
    transaction.execute(
        "UPDATE joins SET is_over = 1, is_failed = ?, touched = ?, due = ? + patience, following = NULL"
        " WHERE number = ?",
        (int(failing is not None), now, now, number),
    )
    if failing is not None:
        transaction.execute("DELETE FROM arrivals WHERE join_number = ? AND member <> ?", (number, failing))
    try:
        return unpack_all(packed)
    except MalformedMessage as exc:
        # Failing here would fail the last member's commit for ever.
        logger.warning("join number %d has ended, but its messages can't be read: %s", number, exc)
        return ()


def _release(transaction: Transaction, join_id: str) -> None:
    join = transaction.execute("SELECT number, readers FROM joins WHERE id = ? AND is_over", (join_id,)).fetchone()
    if join is None:
        return
    number, readers = join
    if readers > 1:
        transaction.execute("UPDATE joins SET readers = ? WHERE number = ?", (readers - 1, number))
    else:
        _delete(transaction, number)


def _delete(transaction: Transaction, number: int) -> int:
    """Delete a join and its members; return how many there were."""
    members = transaction.execute("DELETE FROM arrivals WHERE join_number = ?", (number,)).rowcount
    transaction.execute("DELETE FROM joins WHERE number = ?", (number,))
    return members


def joined(connection: sqlite3.Connection, join_ids: Sequence[str], now: float) -> dict[str, Joined]:
    """Return what became of those of `join_ids` that are over, by their ids."""
    found: dict[str, Joined] = {}
    connection.execute("BEGIN")  # a join and its members are read as they are at one moment
    try:
        for chunk in in_chunks(join_ids):
            rows = connection.execute(
                "SELECT number, id, about, touched, is_failed FROM joins"
                f" WHERE id IN ({marks(len(chunk))}) AND is_over AND due > ?",
                (*chunk, now),
            ).fetchall()
            for number, join_id, about, ended_at, is_failed in rows:
                members = connection.execute(
                    f"SELECT member, {RECORD} FROM arrivals WHERE join_number = ?", (number,)
                ).fetchall()
                records = {row[0]: Record(*row[1:]) for row in members}
                found[join_id] = Joined(about, records, ended_at, bool(is_failed))
    finally:
        connection.execute("COMMIT")
    return found


def look_for_overdue(connection: sqlite3.Connection, limit: int, now: float) -> tuple[list[str], list[int], bool]:
    """Return at most `limit` ids of overdue joins, numbers of those to be `put_right`, and whether to look again."""
    rows = connection.execute(
        f"SELECT number, id, {_DEADLINE} FROM joins WHERE is_over = 0 AND due <= ? ORDER BY due LIMIT ?",
        (now, max(limit, _BATCH)),
    ).fetchall()
    found = [join_id for _, join_id, deadline in rows if deadline <= now]
    wrong = [number for number, _, deadline in rows if deadline > now]
    return found[:limit], wrong, bool(wrong) and len(found) < limit and len(rows) >= _BATCH


def put_right(transaction: Transaction, numbers: Iterable[int]) -> None:
    """Have `due` of open joins say when they are overdue, as far as is known now."""
    for number in numbers:
        transaction.execute(f"UPDATE joins SET due = {_DEADLINE} WHERE number = ? AND is_over = 0", (number,))


def purge_joins(transaction: Transaction, now: float, batch: int) -> bool:
    """Delete joins that nobody released, about `batch` members at a time; return whether there may be more."""
    left = batch
    for (number,) in transaction.execute(
        "SELECT number FROM joins WHERE is_over <> 0 AND due <= ? LIMIT ?", (now, batch)
    ).fetchall():
        left -= 1 + _delete(transaction, number)
        if left <= 0:
            return True
    return False
