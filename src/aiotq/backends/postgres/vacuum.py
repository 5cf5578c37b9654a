"""Vacuuming the table of messages when autovacuum does not get to it: large tables of others may keep it for hours."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

import psycopg

from ...exceptions import OperationalError
from .connection import PostgresClient
from .wire import open_wire

logger = logging.getLogger("aiotq.transport.postgres")

#: Seconds between looks, and between vacuums.
_EVERY: Final = 60.0
#: Dead rows from which on it is done.
_MOST_DEAD: Final = 50_000
#: Seconds that it may take: the next one goes on.
_PATIENCE: Final = 10.0
#: Seconds for which somebody's transaction may keep all dead rows without a warning.
_LONG: Final = 600

_LOOK: Final = b"""
select s.n_dead_tup > $2::int and greatest(s.last_vacuum, s.last_autovacuum, '-infinity')
        < clock_timestamp() - make_interval(secs => $3::int)
    and pg_catalog.pg_has_role(c.relowner, 'usage'),
    (select max(extract(epoch from clock_timestamp() - a.xact_start))::int from pg_stat_activity a
        where a.backend_xmin is not null and a.xact_start < clock_timestamp() - make_interval(secs => $4::int))
from pg_stat_user_tables s join pg_class c on c.oid = s.relid where s.relid = to_regclass($1::text)
"""


class Vacuum:
    """Looks after dead rows, now and then."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._next: float | None = None
        self._has_warned = False

    async def look(self) -> None:
        """Vacuum if that is needed, at most once a minute; that it can't be done costs a line in the log."""
        now = asyncio.get_running_loop().time()
        if self._next is None or now < self._next:
            self._next = self._next or now + _EVERY * random.uniform(0.5, 1.5)
            return
        self._next = now + _EVERY * random.uniform(0.7, 1.3)
        table = self._client.address.named("aiotq.message")
        try:
            rows = await self._client.rows(_LOOK, table, _MOST_DEAD, round(_EVERY), _LONG)
            for is_needed, open_for in rows:
                self._warn(open_for)
                if is_needed:
                    await self._vacuum()
        except (OperationalError, psycopg.Error, TimeoutError) as exc:
            logger.warning("can't vacuum %s: %s", table, exc)

    async def _vacuum(self) -> None:
        """Vacuum, on a connection of its own: others need not wait."""
        wire = await open_wire(self._client.address)
        try:
            async with asyncio.timeout(_PATIENCE):
                await wire.rows(self._client.named(b"vacuum (truncate false) aiotq.message"))
        finally:
            wire.end()

    def _warn(self, open_for: int | None) -> None:
        if open_for is not None and not self._has_warned:
            logger.warning(
                "a transaction has been open for %d s: no dead row can be removed meanwhile, and the queue's tables "
                "grow. Look for it in pg_stat_activity (backend_xmin)",
                open_for,
            )
        self._has_warned = open_for is not None
