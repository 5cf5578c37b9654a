"""`sqlite:///file.db`: one file, shared by the processes of one machine."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from ...commit import Committer
from ..base import House, Place
from .broker import SQLiteTransport
from .commit import SQLiteCommitter
from .connection import Database
from .opening import path_from_url
from .records import SQLiteStore


class Here(Place):
    """Broker and results in one file."""

    def __init__(self, url: str, house: House) -> None:
        self._database = Database(path_from_url(url))
        transport = SQLiteTransport(
            self._database, clock=house.clock, dead_letter_retention=house.conf.dead_letter_expires
        )
        store = SQLiteStore(self._database, clock=house.clock)
        self.transport, self.store = transport, store
        self._parts = transport, store

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
