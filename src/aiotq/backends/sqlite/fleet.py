"""The fleet registry in the file: a row a worker, which goes some time after its lease has ended."""

from __future__ import annotations

import sqlite3

from ...results.fleet import MISSING_KEPT, Presence, sorted_by_key
from .sql import Transaction


def renew_presence(transaction: Transaction, key: str, row: bytes, ends: float) -> None:
    transaction.execute("INSERT OR REPLACE INTO fleet (key, ends, row) VALUES (?, ?, ?)", (key, ends, row))


def end_presence(transaction: Transaction, key: str) -> None:
    transaction.execute("DELETE FROM fleet WHERE key = ?", (key,))


def read_fleet(connection: sqlite3.Connection, now: float) -> list[Presence]:
    rows = connection.execute("SELECT key, row, ends FROM fleet WHERE ends > ?", (now - MISSING_KEPT,))
    return sorted_by_key(Presence(key, row, ends - now) for key, row, ends in rows)


def purge_fleet(transaction: Transaction, now: float) -> None:
    """Delete who is missing for long enough."""
    transaction.execute("DELETE FROM fleet WHERE ends <= ?", (now - MISSING_KEPT,))
