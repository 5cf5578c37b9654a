"""A record store in a database that SQLAlchemy knows: a row an id, in Celery's table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.records import Record, RecordStore, newest_of
from ...states import READY_STATES
from ...wire.message import new_id
from .connection import SqlClient
from .rows import record_of, row_of
from .tables import RESULTS

T = TypeVar("T")

#: Ids in one statement: what an old SQLite takes of values, of which a row has some twenty.
_MOST: Final = 40
_MOST_READ: Final = 500
#: Seconds between looks for what has expired, and how much of it one look deletes.
_CLEANED: Final = 60.0
_MOST_CLEANED: Final = 1000

_C: Final = RESULTS.c
_FINAL: Final = tuple(READY_STATES)


class SqlRecords(RecordStore):
    """Records in `celery_taskmeta`. `is_shared`: with a Celery, which pushes none."""

    def __init__(self, client: SqlClient, *, clock: Clock = SYSTEM_CLOCK, is_shared: bool = False) -> None:
        super().__init__()
        self._is_shared = is_shared
        self._client = client
        self._clock = clock
        self._cleaned = time.monotonic()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    @property
    def is_polled(self) -> bool:
        return self._is_shared

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        found: dict[str, Record | None] = {}
        now = self._clock.time()
        for some in _chunks(list(dict.fromkeys(ids)), _MOST_READ):
            async with self._client.transaction() as connection:
                rows = await connection.execute(sa.select(RESULTS).where(_C.task_id.in_(some)))
                for row in rows.mappings():
                    found[row["task_id"]] = record_of(cast("Mapping[str, Any]", row), now)
        return [found.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        await self.stored(records)

    async def stored(self, records: Sequence[Record]) -> Sequence[Record]:
        stored: list[Record] = []
        now = self._clock.time()
        # In the order of their ids: two who write the same rows wait for each other, and not both.
        for some in _chunks(sorted(newest_of(records).values(), key=lambda record: record.id), _MOST):
            async with self._client.transaction() as connection:
                stored += await _write(connection, some, now)
        if time.monotonic() - self._cleaned >= _CLEANED:
            self._cleaned = time.monotonic()
            await self._delete_expired(now)
        return stored

    async def forget(self, ids: Sequence[str]) -> None:
        for some in _chunks(ids, _MOST_READ):
            async with self._client.transaction() as connection:
                await connection.execute(sa.delete(RESULTS).where(_C.task_id.in_(some)))

    async def _delete_expired(self, now: float) -> None:
        async with self._client.transaction() as connection:
            expired = sa.select(_C.id).where(_C.aiotq_expires <= now).limit(_MOST_CLEANED)
            numbers = list(await connection.scalars(expired))
            if numbers:
                still = sa.and_(_C.id.in_(numbers), _C.aiotq_expires <= now)
                await connection.execute(sa.delete(RESULTS).where(still))


async def _write(connection: AsyncConnection, records: Sequence[Record], now: float) -> list[Record]:
    """Write records, unless a final one stands: the database decides that. Return what was written."""
    written = new_id()
    rows = {record.id: row_of(record, written) for record in records}
    done: set[str] = set()
    missing = set(rows)
    while missing:  # again, should one have been deleted just between both statements
        await connection.execute(_insert(connection.dialect.name, [rows[each] for each in sorted(missing)]))
        standing = sa.select(_C.task_id, _C.status, _C.aiotq_expires, _C.aiotq_written).where(_C.task_id.in_(missing))
        for task_id, status, expires, write in await connection.execute(standing):
            missing.discard(task_id)
            is_replaceable = status not in READY_STATES or (expires is not None and expires <= now)
            if write == written or (is_replaceable and await _replaced(connection, rows[task_id], now)):
                done.add(task_id)
    return [record for record in records if record.id in done]


async def _replaced(connection: AsyncConnection, row: Mapping[str, Any], now: float) -> bool:
    """Whether `row` could be written over what stands there."""
    is_replaceable = sa.or_(_C.status.is_(None), _C.status.not_in(_FINAL), _C.aiotq_expires <= now)
    update = sa.update(RESULTS).where(_C.task_id == row["task_id"], is_replaceable).values(**row)
    return (await connection.execute(update)).rowcount > 0


def _insert(dialect: str, rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
    """Return what inserts rows, but those whose ids stand already."""
    if dialect == "postgresql":
        return postgresql.insert(RESULTS).values(rows).on_conflict_do_nothing(index_elements=[_C.task_id])
    if dialect == "sqlite":
        return sqlite.insert(RESULTS).values(rows).on_conflict_do_nothing(index_elements=[_C.task_id])
    # Not IGNORE, which would cut short what is too long.
    return mysql.insert(RESULTS).values(rows).on_duplicate_key_update(task_id=_C.task_id)


def _chunks(given: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(given), most):
        yield given[start : start + most]
