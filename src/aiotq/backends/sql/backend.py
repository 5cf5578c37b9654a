"""`db+postgresql://`, `db+mysql://`, `db+sqlite://`: results in a database (see `address` for the URLs)."""

from __future__ import annotations

from collections.abc import Hashable

from ..base import Backend, BackendContext
from .address import parse
from .connection import SqlClient, migrated
from .records import SqlRecords
from .tables import RESULTS


class SqlBackend(Backend):
    """Records; the broker decides for all workers and pushes."""

    has_ledger = False

    def __init__(self, url: str, context: BackendContext) -> None:
        client = SqlClient(parse(url), migrates=context.conf.postgres_migrate)
        self.records = SqlRecords(client, clock=context.clock, is_shared=context.conf.celery_compat)

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    @classmethod
    async def migrate(cls, url: str) -> int:
        return await migrated(parse(url), RESULTS)
