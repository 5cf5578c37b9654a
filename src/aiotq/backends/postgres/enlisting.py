"""A finish as one statement, for a transaction that is somebody else's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import orjson

from ...commit import Finish
from ..base import Statement
from .commit import packed_group
from .connection import PostgresClient
from .items import Effects
from .pushing import push

_TABLE: Final = b"select to_regclass('aiotq.message')::oid::bigint"
#: The call of the function depends on a row that only our own database has, so in another one nothing is written.
#: Consumers are told by the transaction itself: it is the only one that knows when it commits.
_SQL: Final = (
    "select CAST(json_build_object('lost', done.lost, 'kept', done.kept, 'watched', done.watched) AS text),"
    " case when done.ready is not null or done.hurry is not null then pg_notify(CAST(",
    " AS text), CAST(",
    " AS text)) end from (select CAST(",
    " AS text) as line where to_regclass('aiotq.message')::oid::bigint = CAST(",
    " AS bigint)) as here, lateral aiotq.commit(here.line, 1, CAST(",
    " AS jsonb)) as done",
)


class Enlisting:
    """Makes statements for transactions of the user's."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._table: int | None = None  #: the number of the table of messages, which another database has not
        self._sql = tuple(client.address.named(part) for part in _SQL)

    async def statement(self, finish: Finish) -> Statement:
        """Return what writes `finish`; raises as `Lane.run`, and `Refused`."""
        table = self._table
        if table is None:
            table = self._table = int((await self._client.row(_TABLE))[0])
        parts, effects = packed_group([finish])
        base = self._client.address.channel_base
        values = (base, self._client.bus.woken, os.urandom(8).hex(), table, parts)
        return Statement(self._sql, values, _is_held, lambda row: self._push(effects, row))

    def _push(self, effects: Effects, row: Sequence[Any]) -> None:
        told = orjson.loads(row[0])
        push(self._client, effects.written(()), told["kept"], told["watched"])


def _is_held(row: Sequence[Any]) -> bool:
    return not orjson.loads(row[0])["lost"]
