"""Periodic tasks in the file: a row for each, and a counter of the changes to be looked at. And rows of keys."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Literal

from ...exceptions import MalformedMessage
from ...results.decisions import schedule_fate
from ...results.ledger import ScheduleChange, ScheduleRow
from ...wire.message import Envelope
from .packing import pack_all, unpack_all
from .sql import Transaction, in_chunks, marks

logger = logging.getLogger("aiotq.results.sqlite")


def change_schedule(
    transaction: Transaction, change: ScheduleChange, now: float
) -> Literal["write", "done", "refused"]:
    """Write a row, and return what was done."""
    if change.lasts is not None:
        return _change_key(transaction, change, now, now + change.lasts)
    key = change.scope, change.name
    row = transaction.execute("SELECT mark FROM schedules WHERE scope = ? AND name = ?", key).fetchone()
    fate = schedule_fate("" if row is None else row[0], change)
    if fate != "write":
        return fate
    if change.mark:
        transaction.execute(
            "INSERT OR REPLACE INTO schedules (scope, name, mark, body, unsent) VALUES (?, ?, ?, ?, ?)",
            (*key, change.mark, change.body, pack_all(change.unsent)),
        )
    else:
        transaction.execute("DELETE FROM schedules WHERE scope = ? AND name = ?", key)
    if change.tells:
        transaction.execute(
            "INSERT INTO counters (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
            (_counter(change.scope),),
        )
    return fate


def _change_key(
    transaction: Transaction, change: ScheduleChange, now: float, expires: float
) -> Literal["write", "done", "refused"]:
    row = transaction.execute("SELECT mark FROM keys WHERE name = ? AND expires > ?", (change.name, now)).fetchone()
    fate = schedule_fate("" if row is None else row[0], change)
    if fate == "write" and change.mark:
        transaction.execute(
            "INSERT OR REPLACE INTO keys (name, mark, body, unsent, expires) VALUES (?, ?, ?, ?, ?)",
            (change.name, change.mark, change.body, pack_all(change.unsent), expires),
        )
    elif fate == "write":
        transaction.execute("DELETE FROM keys WHERE name = ?", (change.name,))
    return fate


def read_keys(connection: sqlite3.Connection, names: Sequence[str], now: float) -> list[ScheduleRow]:
    """Return the rows of keys."""
    return [
        ScheduleRow(name, mark, body, _unsent(name, unsent))
        for chunk in in_chunks(names)
        for name, mark, body, unsent in connection.execute(
            f"SELECT name, mark, body, unsent FROM keys WHERE name IN ({marks(len(chunk))}) AND expires > ?",
            (*chunk, now),
        )
    ]


def read_schedules(connection: sqlite3.Connection, scope: str, names: Sequence[str] | None) -> list[ScheduleRow]:
    """Return the rows of an app, all or those of `names`."""
    columns = "SELECT name, mark, body, unsent FROM schedules WHERE scope = ?"
    if names is None:
        rows = connection.execute(columns, (scope,)).fetchall()
    else:
        rows = [
            row
            for chunk in in_chunks(names)
            for row in connection.execute(f"{columns} AND name IN ({marks(len(chunk))})", (scope, *chunk))
        ]
    return [ScheduleRow(name, mark, body, _unsent(name, unsent)) for name, mark, body, unsent in rows]


def read_revision(connection: sqlite3.Connection, scope: str) -> int:
    """Return how many changes of an app's rows were to be looked at."""
    row = connection.execute("SELECT value FROM counters WHERE name = ?", (_counter(scope),)).fetchone()
    return 0 if row is None else int(row[0])


def _counter(scope: str) -> str:
    return f"schedules {scope}"


def _unsent(name: str, packed: object) -> tuple[Envelope, ...]:
    try:
        return unpack_all(packed)
    except MalformedMessage as exc:
        logger.warning("periodic task %s: its unsent messages can't be read: %s", name, exc)
        return ()
