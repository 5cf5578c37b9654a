"""The record store in a PostgreSQL: a row for each outcome, and pushes as notifications."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from anyio import to_thread

from ...exceptions import OperationalError
from ...results.index import Chunk, FinishedPage, FinishedQuery, checked, searched, sifted
from ...results.ledger import NO_JOIN_CHANGES
from ...results.packing import unpack_pushed
from ...results.records import RESULTS, Record, RecordStore
from .connection import PostgresClient, packed
from .items import Effects
from .pushing import push

logger = logging.getLogger("aiotq.results.postgres")

#: Seconds for which a watched id is remembered without being renewed, which happens far more often.
WATCH_EXPIRES: Final = 3600.0
#: Entries of the index that are read in the loop; more than that in a thread.
_AT_ONCE: Final = 200

_NOW: Final = "extract(epoch from clock_timestamp())::float8"
_GET: Final = (
    "select id, state, body, content_type, expires, reply_to from aiotq.result"
    f" where id = any ($1::text[]) and expires > {_NOW}"
).encode()
_STATES: Final = f"select id, state from aiotq.result where id = any ($1::text[]) and expires > {_NOW}".encode()
_PUT: Final = f"select kept, watched from aiotq.effects($1::jsonb, {_NOW})".encode()
_COUNTS: Final = b"select state, count(*) from aiotq.finished group by state"
_UNLIST: Final = b"delete from aiotq.finished where nr = any ($1::bigint[]) returning nr"
_FORGET: Final = b"delete from aiotq.result where id = any ($1::text[])"
_WATCH: Final = (
    f"insert into aiotq.watcher (id, address, expires) select w, $2::text, {_NOW} + $3::float8"
    " from unnest($1::text[]) as w on conflict (id, address) do update set expires = excluded.expires"
).encode()
_UNWATCH: Final = b"delete from aiotq.watcher where id = any ($1::text[]) and address = $2::text"


class PostgresRecords(RecordStore):
    """A record store on one `PostgresClient`, which is entered by whoever made it."""

    is_pushing = True
    has_index = True

    def __init__(self, client: PostgresClient) -> None:
        super().__init__()
        self.client = client
        self._watched: set[str] = set()
        self._stop: tuple[Callable[[], None], ...] = ()

    @property
    def address(self) -> str:
        return self.client.bus.address

    @property
    def is_polled(self) -> bool:
        return not self.client.hears

    async def __aenter__(self) -> Self:
        self._stop = (
            self.client.bus.hear(RESULTS, self._heard, self._missed),
            self.client.upkeep.also(self._renew_watches),
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for stop in self._stop:
            stop()
        if self._watched:
            try:
                await self.client.rows(_UNWATCH, list(self._watched), self.address)
            except OperationalError as exc:
                logger.warning("can't end watching, it ends within the hour: %s", exc)
            self._watched.clear()

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        found = {row[0]: Record(*row) for row in await self.client.rows(_GET, list(dict.fromkeys(ids)))}
        return [found.get(task_id) for task_id in ids]

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        found = dict(await self.client.rows(_STATES, list(dict.fromkeys(ids)))) if ids else {}
        return [found.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        if not records:
            return
        effects = Effects()
        effects.add(0, None, records, NO_JOIN_CHANGES)
        kept, watched = await self.client.row(_PUT, packed(effects.given()))
        push(self.client, records, kept, watched)

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.rows(_FORGET, list(ids))

    async def find(self, query: FinishedQuery) -> FinishedPage:
        query = checked(query)
        counts = dict(await self.client.rows(_COUNTS))
        return await searched(query, self._read, counts)

    async def unlist(self, keys: Sequence[str]) -> int:
        return len(await self.client.rows(_UNLIST, [int(key) for key in keys if key.isdecimal()]))

    async def _read(self, query: FinishedQuery, before: str | None, count: int) -> Chunk:
        sql, values = _reading(query, before, count)
        rows = [(nr, bytes(entry)) for nr, entry in await self.client.rows(sql, *values)]
        return sifted(query, rows) if count <= _AT_ONCE else await to_thread.run_sync(sifted, query, rows)

    async def watch(self, task_id: str) -> None:
        self._watched.add(task_id)
        await self.client.rows(_WATCH, [task_id], self.address, WATCH_EXPIRES)

    async def unwatch(self, task_id: str) -> None:
        self._watched.discard(task_id)
        await self.client.rows(_UNWATCH, [task_id], self.address)

    async def _renew_watches(self) -> None:
        if self._watched:
            await self.client.rows(_WATCH, sorted(self._watched), self.address, WATCH_EXPIRES)

    def _heard(self, payload: bytes) -> None:
        if not self.listening:
            return
        records, unread = unpack_pushed(payload)
        if records:
            self.on_push(records)
        if unread:
            self.on_missed(unread)

    def _missed(self) -> None:
        self.on_missed(None)


def _reading(query: FinishedQuery, before: str | None, count: int) -> tuple[bytes, list[Any]]:
    """Return the statement that reads entries, the newest first, and its values."""
    is_one = len(query.states) == 1  # read by the index of its state
    where = "state = $1::text" if is_one else "state = any ($1::text[])"
    values: list[Any] = [query.states[0] if is_one else list(query.states), count]
    if before is not None:
        where += " and nr < $3::bigint"
        values.append(int(before))
    sql = f"select nr::text as key, entry from aiotq.finished where {where} and expires > {_NOW}"
    return f"{sql} order by nr desc limit $2::int".encode(), values
