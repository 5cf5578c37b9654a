"""Permits of tasks with a `max_concurrency` in the file: a row for each that is taken, and for each who waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ...results.base import SEAT_KEPT, SEEKING_KEPT, Permit
from ...results.permits import NOBODY
from .sql import Transaction

#: A number of those who wait is told up to here: nobody reads all rows to know it exactly.
_MOST_COUNTED: Final = 3000


def acquire_permits(
    transaction: Transaction, seats: Sequence[Permit], holder: str, now: float, lease: float
) -> list[int]:
    """Take seats; return 0, or how many wait with it."""
    _free_what_ended(transaction, {seat.name for seat in seats}, now)
    waiting: dict[str, int] = {}
    return [_sit(transaction, seat, holder, now, lease, waiting) for seat in seats]


def _sit(transaction: Transaction, seat: Permit, holder: str, now: float, lease: float, waiting: dict[str, int]) -> int:
    place = (seat.name, *seat.key)
    where = "name = ? AND id = ? AND attempt = ?"
    may = transaction.execute(f"DELETE FROM seats WHERE {where} AND holder IN (?, ?)", (*place, NOBODY, holder))
    if not may.rowcount:
        (taken,) = transaction.execute("SELECT count(*) FROM seats WHERE name = ?", (seat.name,)).fetchone()
        if taken >= seat.limit:
            if seat.name not in waiting:
                counted = f"SELECT 1 FROM seekers WHERE name = ? LIMIT {_MOST_COUNTED}"
                (waiting[seat.name],) = transaction.execute(
                    f"SELECT count(*) FROM ({counted})", (seat.name,)
                ).fetchone()
            return waiting[seat.name] + 1
    transaction.insert("INSERT INTO seats (name, id, attempt, holder, ends)", [(*place, holder, now + lease)])
    transaction.execute(f"DELETE FROM seekers WHERE {where}", place)
    return 0


def keep(transaction: Transaction, seats: Collection[Permit], holder: str, ends: float) -> None:
    """Move the end of what `holder` has."""
    for seat in seats:
        transaction.execute(
            "UPDATE seats SET ends = ? WHERE name = ? AND id = ? AND attempt = ? AND holder = ?",
            (ends, seat.name, *seat.key, holder),
        )


def hand_over_permits(
    transaction: Transaction,
    left: Sequence[Permit],
    seeking: Sequence[Permit],
    holder: str,
    limits: Mapping[str, int],
    now: float,
) -> list[Permit]:
    """Free what `holder` has left, remember who waits; return those for whom a seat is kept now."""
    for seat in left:
        where = "name = ? AND id = ? AND attempt = ?"
        transaction.execute(f"DELETE FROM seats WHERE {where} AND holder = ?", (seat.name, *seat.key, holder))
        if holder == NOBODY:
            transaction.execute(f"DELETE FROM seekers WHERE {where}", (seat.name, *seat.key))
    transaction.insert(
        "INSERT OR REPLACE INTO seekers (name, id, attempt, since, expires)",
        [(seat.name, *seat.key, seat.since, now + SEEKING_KEPT) for seat in seeking],
    )
    _free_what_ended(transaction, limits, now)
    return [seat for name, limit in limits.items() for seat in _tell(transaction, name, limit, now)]


def _tell(transaction: Transaction, name: str, limit: int, now: float) -> list[Permit]:
    """Keep the free seats of one task for those who waited longest."""
    (taken,) = transaction.execute("SELECT count(*) FROM seats WHERE name = ?", (name,)).fetchone()
    if taken >= limit:
        return []
    told = transaction.execute(
        "SELECT id, attempt, since FROM seekers AS s INDEXED BY seekers_line WHERE name = ? AND expires > ?"
        " AND NOT EXISTS (SELECT 1 FROM seats AS t WHERE t.name = s.name AND t.id = s.id AND t.attempt = s.attempt"
        " AND t.holder = ?) ORDER BY since LIMIT ?",
        (name, now, NOBODY, limit - taken),
    ).fetchall()
    transaction.insert(
        "INSERT INTO seats (name, id, attempt, holder, ends)",
        [(name, task_id, attempt, NOBODY, now + SEAT_KEPT) for task_id, attempt, _ in told],
    )
    return [Permit((task_id, attempt), name, limit, since) for task_id, attempt, since in told]


def _free_what_ended(transaction: Transaction, names: Collection[str], now: float) -> None:
    for name in names:
        transaction.execute("DELETE FROM seats WHERE name = ? AND ends <= ?", (name, now))
