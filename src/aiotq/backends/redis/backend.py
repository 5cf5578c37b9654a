"""`redis://host`: a Redis of whatever kind (see `address` for the URLs)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Self

from ...commit import Committer
from ...exceptions import InvalidSetting
from ..base import Backend, BackendContext
from .address import parse
from .broker import RedisBroker
from .celery_records import CeleryRedisRecords
from .commit import RedisCommitter
from .connection import RedisClient
from .health import server_warnings
from .ledger import RedisLedger
from .records import RedisRecords


class RedisBackend(Backend):
    """Broker, records, ledger and bus in one Redis, under one prefix."""

    has_shares = True

    def __init__(self, url: str, context: BackendContext) -> None:
        self._client = RedisClient(parse(url))
        self._clock = context.clock
        broker = RedisBroker(self._client, clock=context.clock, dead_letter_retention=context.conf.dead_letter_expires)
        if context.conf.celery_compat and self._client.address.kind == "cluster":
            raise InvalidSetting("celery_compat", True, "False: Celery keeps results in one Redis, not in a cluster")
        kind = CeleryRedisRecords if context.conf.celery_compat else RedisRecords
        self.records = kind(self._client, clock=context.clock)
        ledger = RedisLedger(self._client, self.records, clock=context.clock)
        self.broker, self.ledger, self.bus = broker, ledger, self._client.bus
        self._parts = broker, ledger

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    async def warnings(self) -> Sequence[str]:
        return [f"Redis at {self._client.address.shown}: its {each}" for each in await server_warnings(self._client)]

    def committer(self) -> Committer:
        return RedisCommitter(*self._parts, clock=self._clock)
