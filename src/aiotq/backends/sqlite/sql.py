"""How operations speak SQL: the transaction a write sees, and statements over many rows at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Rows per INSERT and values per IN: few statements, since each gives up the interpreter lock several times, and a busy
#: loop is slow to give it back (measured with one: 0.5 ms per 500 rows, 1.9 ms with executemany).
ROWS_AT_ONCE: Final = 64
VALUES_AT_ONCE: Final = 1024


class Transaction:
    """A write's transaction: the connection, inside BEGIN IMMEDIATE, and the processes to tell after the commit."""

    __slots__ = ("connection", "queues", "told", "told_all")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.queues: set[str] = set()  #: wake who consumes from these: there are messages
        self.told: dict[tuple[str, str], None] = {}  #: address and topic: there is something to be read
        self.told_all: dict[str, None] = {}  #: topics of which all are told

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)

    def insert(self, into: str, rows: Sequence[Sequence[Any]]) -> int:
        return insert_rows(self.connection, into, rows)

    def listeners_changed(self) -> None:
        self.execute("UPDATE counters SET value = value + 1 WHERE name = 'listeners'")

    def tell(self, address: str, topic: str) -> None:
        """Have the process at `address` told, when this is committed, that there is something to be read."""
        self.told[address, topic] = None

    def tell_all(self, topic: str) -> None:
        """The same for all processes."""
        self.told_all[topic] = None

    @property
    def is_quiet(self) -> bool:
        return not (self.queues or self.told or self.told_all)


def marks(count: int) -> str:
    """Return `count` question marks for SQL."""
    return ",".join("?" * count)


def insert_rows(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> int:
    """Run `INSERT … VALUES (…), (…)…` with `into` as the part before VALUES; return how many rows were inserted."""
    inserted = 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = rows[start : start + ROWS_AT_ONCE]
        values = ",".join([f"({marks(len(chunk[0]))})"] * len(chunk))
        inserted += connection.execute(f"{into} VALUES {values}", [value for row in chunk for value in row]).rowcount
    return inserted


def in_chunks(values: Sequence[T]) -> Iterable[list[T]]:
    """Yield `values` in lists for `IN`, filled up to few different lengths: each length is a statement of its own."""
    for start in range(0, len(values), VALUES_AT_ONCE):
        chunk = list(values[start : start + VALUES_AT_ONCE])
        length = 1 << (len(chunk) - 1).bit_length()
        yield chunk + [chunk[-1]] * (length - len(chunk))


def ids_in(connection: sqlite3.Connection, table: str, ids: Sequence[str], now: float, where: str = "1") -> set[str]:
    """Return those of `ids` that `table` has, not expired and with what is true `where`."""
    found: set[str] = set()
    for chunk in in_chunks(ids):
        text = f"SELECT id FROM {table} WHERE id IN ({marks(len(chunk))}) AND {where} AND expires > ?"
        found.update(task_id for (task_id,) in connection.execute(text, (*chunk, now)))
    return found
