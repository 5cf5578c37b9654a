"""The table of results: Celery's own, with columns of ours behind; and how a table is made.

Source: Celery 5.7, `celery.backends.database.models` (names, types, what is unique and indexed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateColumn

from ...exceptions import OperationalError

#: MySQL's own would hold 64 kB.
_BYTES: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
LONG_TEXT: Final = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
#: Looks at the tables, when others make them at the same time.
_TRIES: Final = 5

METADATA: Final = sa.MetaData()
#: Of one that Celery made what is missing is added; Celery leaves columns alone that it does not know.
RESULTS: Final = sa.Table(
    "celery_taskmeta",
    METADATA,
    sa.Column("id", sa.Integer, sa.Sequence("task_id_sequence"), primary_key=True, autoincrement=True),
    sa.Column("task_id", sa.String(155), unique=True),
    sa.Column("status", sa.String(50)),
    sa.Column("result", _BYTES),
    sa.Column("date_done", sa.DateTime, index=True),
    sa.Column("traceback", LONG_TEXT),
    sa.Column("children", _BYTES),
    sa.Column("name", sa.String(155)),
    sa.Column("args", _BYTES),
    sa.Column("kwargs", _BYTES),
    sa.Column("worker", sa.String(155)),
    sa.Column("retries", sa.Integer),
    sa.Column("queue", sa.String(155)),
    sa.Column("stamps", _BYTES),
    sa.Column("aiotq_state", sa.String(50)),  #: what `status` was when we wrote the record below
    sa.Column("aiotq_body", _BYTES),
    sa.Column("aiotq_content_type", sa.String(200)),
    sa.Column("aiotq_reply_to", sa.String(200)),
    sa.Column("aiotq_expires", sa.Double, index=True),
    sa.Column("aiotq_written", sa.String(40)),  #: which write it was
    sqlite_autoincrement=True,
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",  # ids that differ in case are two
)


async def make_table(engine: AsyncEngine, table: sa.Table, shown: str, *, migrates: bool) -> int:
    """Make `table`, or add to it what is missing; return how many changes that took.

    Raises:
        OperationalError: it can't be made, or is not to be and something is missing.
    """
    for attempt in range(_TRIES):
        async with engine.connect() as connection:
            missing = await connection.run_sync(_missing, table)
        if not missing:
            return 0
        if not migrates:
            raise OperationalError(
                f"{shown}: the table {table.name} {_said(missing, table)}: "
                "`aiotq migrate-db` makes it, or set postgres_migrate"
            )
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_make, table)
        except DBAPIError as exc:  # somebody else makes them, or we may not
            if attempt + 1 == _TRIES:
                raise OperationalError(
                    f"{shown}: the table {table.name} {_said(missing, table)}, and it can't be made: {exc.orig} "
                    "(`aiotq migrate-db` makes it, run as somebody who may)"
                ) from exc
        else:
            return len(missing)
    return 0


def _missing(connection: Connection, table: sa.Table) -> Sequence[sa.Column[Any]]:
    """Return the columns that are not there: all, if the table is not."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        return tuple(table.columns)
    there = {column["name"] for column in inspector.get_columns(table.name)}
    return tuple(column for column in table.columns if column.name not in there)


def _make(connection: Connection, table: sa.Table) -> None:
    missing = _missing(connection, table)
    if len(missing) == len(table.columns):
        table.create(connection, checkfirst=True)
        return
    preparer = connection.dialect.identifier_preparer
    for column in missing:
        declared = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {preparer.format_table(table)} ADD COLUMN {declared}")
    for index in table.indexes:
        if any(column in missing for column in index.columns):
            index.create(connection)


def _said(missing: Sequence[sa.Column[Any]], table: sa.Table) -> str:
    if len(missing) == len(table.columns):
        return "is not there"
    return f"has no column {', '.join(column.name for column in missing)}"
