"""`sqlite:///file.db`: one file, shared by the processes of one machine."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ..base import Backend, BackendContext
from .broker import SQLiteBroker
from .commit import SQLiteCommitter
from .connection import Database
from .ledger import SQLiteLedger
from .opening import path_from_url
from .records import SQLiteRecords


class SQLiteBackend(Backend):
    """Broker, records, ledger and bus in one file."""

    has_shares = True

    def __init__(self, url: str, context: BackendContext) -> None:
        self._database = Database(path_from_url(url))
        broker = SQLiteBroker(
            self._database, clock=context.clock, dead_letter_retention=context.conf.dead_letter_expires
        )
        self.records = SQLiteRecords(self._database, clock=context.clock)
        ledger = SQLiteLedger(self._database, self.records, clock=context.clock)
        self.broker, self.ledger, self.bus = broker, ledger, self._database.bus
        self._parts = broker, ledger

    @classmethod
    def key(cls, url: str) -> Hashable:
        return path_from_url(url)

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._database.__aexit__(*exc_info)

    def committer(self) -> Committer:
        return SQLiteCommitter(*self._parts)
