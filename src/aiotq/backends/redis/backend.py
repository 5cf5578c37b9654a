"""`redis://host`: a Redis of whatever kind (see `_redis.Address` for the URLs)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ...exceptions import InvalidSetting
from ..base import House, Place
from .address import parse
from .broker import RedisTransport
from .celery_records import CeleryRedisStore
from .commit import RedisCommitter
from .connection import RedisClient
from .records import RedisStore


class Here(Place):
    """Broker and results in one Redis, under one prefix."""

    def __init__(self, url: str, house: House) -> None:
        self._client = RedisClient(parse(url))
        self._clock = house.clock
        transport = RedisTransport(
            self._client, clock=house.clock, dead_letter_retention=house.conf.dead_letter_expires
        )
        if house.conf.celery_compat and self._client.address.kind == "cluster":
            raise InvalidSetting("celery_compat", True, "False: Celery keeps results in one Redis, not in a cluster")
        store = (CeleryRedisStore if house.conf.celery_compat else RedisStore)(self._client, clock=house.clock)
        self.transport, self.store = transport, store
        self._parts = transport, store

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    def committer(self) -> Committer:
        return RedisCommitter(*self._parts, clock=self._clock)
