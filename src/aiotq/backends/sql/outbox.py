"""The table of an outbox: what users' transactions left there is taken out by those who send it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from .address import parse
from .connection import SqlClient, migrated
from .tables import LONG_TEXT

METADATA: Final = sa.MetaData()
#: `id` grows with time. `refused` says why a row can't be sent, and stays for people to look at.
OUTBOX: Final = sa.Table(
    "aiotq_outbox",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("parcel", LONG_TEXT, nullable=False),
    sa.Column("refused", LONG_TEXT),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)
_C: Final = OUTBOX.c


class OutboxTable:
    """The outbox in the database at `url`."""

    def __init__(self, url: str, *, migrates: bool) -> None:
        self._client = SqlClient(parse(url), OUTBOX, migrates=migrates)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    @asynccontextmanager
    async def taking(self, most: int) -> AsyncGenerator[Taken]:
        """Hold up to `most` rows, the oldest first, which nobody else takes until the block ends; raises as a commit.

        If it fails, the rows stay as they were.
        """
        async with self._client.transaction() as connection:
            if connection.dialect.name == "sqlite":  # it has no locks of rows: one at a time
                await connection.execute(sa.update(OUTBOX).where(_C.id == "").values(refused=None))
            waiting = sa.select(_C.id, _C.parcel).where(_C.refused.is_(None)).order_by(_C.id).limit(most)
            rows = await connection.execute(waiting.with_for_update(skip_locked=True))
            yield Taken(connection, {row.id: row.parcel for row in rows})

    async def those_of(self, names: Collection[str]) -> Collection[str]:
        """Return those of `names` that are there."""
        async with self._client.transaction() as connection:
            return set(await connection.scalars(sa.select(_C.id).where(_C.id.in_(names))))


class Taken:
    """Rows that are held: their texts by their ids."""

    def __init__(self, connection: AsyncConnection, parcels: Mapping[str, str]) -> None:
        self._connection = connection
        self.parcels = parcels

    async def delete(self, names: Sequence[str]) -> None:
        """Delete rows, with the end of the block."""
        await self._connection.execute(sa.delete(OUTBOX).where(_C.id.in_(names)))

    async def refuse(self, name: str, why: str) -> None:
        """Note why a row can't be sent: nobody takes it again."""
        await self._connection.execute(sa.update(OUTBOX).where(_C.id == name).values(refused=why))


async def migrate(url: str) -> int:
    """Make the table, or add to it what is missing; return how many changes that took; raises as `make_table`."""
    return await migrated(parse(url), OUTBOX)
