"""`postgresql://host/database`: one PostgreSQL database (see `address` for the URLs)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final, Self

from ...commit import Committer, Finish
from ...exceptions import InvalidSetting, OperationalError
from ..base import Backend, BackendContext, Statement
from .address import parse
from .broker import PostgresBroker
from .commit import PostgresCommitter
from .connection import PostgresClient
from .enlisting import Enlisting
from .ledger import PostgresLedger
from .migrating import migrate
from .records import PostgresRecords
from .wire import open_wire

#: Seconds that making the tables may take; a later version may have to change large ones.
_PATIENCE: Final = 600.0


class PostgresBackend(Backend):
    """Broker, records, ledger and bus in one schema of a database."""

    has_shares = True
    has_statements = True

    def __init__(self, url: str, context: BackendContext) -> None:
        if context.conf.celery_compat:
            raise InvalidSetting("celery_compat", True, "False: Celery has no broker in PostgreSQL to share")
        self._client = PostgresClient(parse(url), migrates=context.conf.postgres_migrate)
        self._client.upkeep.letters_kept = context.conf.dead_letter_expires
        broker = PostgresBroker(
            self._client, clock=context.clock, dead_letter_retention=context.conf.dead_letter_expires
        )
        self.records = PostgresRecords(self._client)
        ledger = PostgresLedger(self._client, self.records)
        self.broker, self.ledger, self.bus = broker, ledger, self._client.bus
        self._parts = broker, ledger
        self._enlisting = Enlisting(self._client)

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    @classmethod
    async def migrate(cls, url: str) -> int:
        address = parse(url)
        wire = await open_wire(address)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await migrate(wire, address)
        except TimeoutError as exc:
            raise OperationalError(f"{address.shown}: the tables were not made within {_PATIENCE:g} s") from exc
        finally:
            wire.end()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    def committer(self) -> Committer:
        return PostgresCommitter(*self._parts)

    async def statement(self, finish: Finish) -> Statement:
        return await self._enlisting.statement(finish)
