"""Permits of tasks with a `max_concurrency` in the file: a row for each that is taken, and for each who waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ...results.ledger import Permit
from ...results.permits import NOBODY, RESERVED, WAITING_KEPT
from .sql import Transaction

#: A number of those who wait is told up to here: nobody reads all rows to know it exactly.
_MOST_COUNTED: Final = 3000


def acquire(transaction: Transaction, permits: Sequence[Permit], holder: str, now: float, lease: float) -> list[int]:
    """Take permits; return 0, or how many wait with it."""
    _release_ended(transaction, {permit.name for permit in permits}, now)
    waiting: dict[str, int] = {}
    return [_acquire(transaction, permit, holder, now, lease, waiting) for permit in permits]


def _acquire(
    transaction: Transaction, permit: Permit, holder: str, now: float, lease: float, waiting: dict[str, int]
) -> int:
    message = (permit.name, *permit.key)
    where = "name = ? AND id = ? AND attempt = ?"
    whose, names = ("1", ()) if permit.is_again else ("holder IN (?, ?)", (NOBODY, holder))
    may = transaction.execute(f"DELETE FROM permits WHERE {where} AND {whose}", (*message, *names))
    if not may.rowcount:
        (taken,) = transaction.execute("SELECT count(*) FROM permits WHERE name = ?", (permit.name,)).fetchone()
        if taken >= permit.limit:
            if permit.name not in waiting:
                counted = f"SELECT 1 FROM waiting WHERE name = ? LIMIT {_MOST_COUNTED}"
                (waiting[permit.name],) = transaction.execute(
                    f"SELECT count(*) FROM ({counted})", (permit.name,)
                ).fetchone()
            return waiting[permit.name] + 1
    transaction.insert("INSERT INTO permits (name, id, attempt, holder, ends)", [(*message, holder, now + lease)])
    transaction.execute(f"DELETE FROM waiting WHERE {where}", message)
    return 0


def renew(transaction: Transaction, permits: Collection[Permit], holder: str, ends: float) -> None:
    """Move the end of what `holder` has."""
    for permit in permits:
        transaction.execute(
            "UPDATE permits SET ends = ? WHERE name = ? AND id = ? AND attempt = ? AND holder = ?",
            (ends, permit.name, *permit.key, holder),
        )


def hand_over(
    transaction: Transaction,
    released: Sequence[Permit],
    waiting: Sequence[Permit],
    holder: str,
    limits: Mapping[str, int],
    now: float,
) -> list[Permit]:
    """Release what `holder` needs no longer, note who waits; return those for whom a permit is reserved now."""
    for permit in released:
        where = "name = ? AND id = ? AND attempt = ?"
        transaction.execute(f"DELETE FROM permits WHERE {where} AND holder = ?", (permit.name, *permit.key, holder))
        if holder == NOBODY:
            transaction.execute(f"DELETE FROM waiting WHERE {where}", (permit.name, *permit.key))
    transaction.insert(
        "INSERT OR REPLACE INTO waiting (name, id, attempt, since, expires)",
        [(permit.name, *permit.key, permit.since, now + WAITING_KEPT) for permit in waiting],
    )
    _release_ended(transaction, limits, now)
    return [permit for name, limit in limits.items() for permit in _reserve(transaction, name, limit, now)]


def _reserve(transaction: Transaction, name: str, limit: int, now: float) -> list[Permit]:
    """Reserve the free permits of one task for those who waited longest."""
    (taken,) = transaction.execute("SELECT count(*) FROM permits WHERE name = ?", (name,)).fetchone()
    if taken >= limit:
        return []
    woken = transaction.execute(
        "SELECT id, attempt, since FROM waiting AS s INDEXED BY waiting_line WHERE name = ? AND expires > ?"
        " AND NOT EXISTS (SELECT 1 FROM permits AS t WHERE t.name = s.name AND t.id = s.id AND t.attempt = s.attempt"
        " AND t.holder = ?) ORDER BY since LIMIT ?",
        (name, now, NOBODY, limit - taken),
    ).fetchall()
    transaction.insert(
        "INSERT INTO permits (name, id, attempt, holder, ends)",
        [(name, task_id, attempt, NOBODY, now + RESERVED) for task_id, attempt, _ in woken],
    )
    return [Permit((task_id, attempt), name, limit, since) for task_id, attempt, since in woken]


def _release_ended(transaction: Transaction, names: Collection[str], now: float) -> None:
    for name in names:
        transaction.execute("DELETE FROM permits WHERE name = ? AND ends <= ?", (name, now))
