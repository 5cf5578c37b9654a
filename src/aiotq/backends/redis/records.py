"""The record store in a Redis: strings that expire, and pushes (see `lua/results.lua` for the keys)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.packing import unpack_record
from ...results.pushed import HeardRecords
from ...results.records import Record
from .connection import RedisClient
from .record_fields import PUT, WATCH, packed_record

#: Seconds for which a process that ended without saying so is thought to watch a task.
_WATCH_KEPT: Final = 86_400


class RedisRecords(HeardRecords):
    """A record store on one `RedisClient`, which its owner enters."""

    def __init__(self, client: RedisClient, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(client.bus)
        self.client = client
        self._clock = clock

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        values = await self.client.ask("MGET", *map(self._key, ids))
        return [
            unpack_record(task_id, value) if value is not None else None
            for task_id, value in zip(ids, values, strict=True)
        ]

    async def put(self, records: Sequence[Record]) -> None:
        if records:
            await self.client.run(PUT, [self._clock.time(), [packed_record(record) for record in records]])

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.ask("DEL", *map(self._key, ids))

    async def watch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, True, _WATCH_KEPT])

    async def unwatch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, False, _WATCH_KEPT])

    def _key(self, task_id: str) -> str:
        return f"{self.client.base}:result:{task_id}"
