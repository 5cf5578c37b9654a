"""The record store in a Redis: strings that expire, and pushes (see `lua/results.lua` for the keys)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.packing import unpack_pushed, unpack_record
from ...results.records import RESULTS, Record, RecordStore
from .connection import RedisClient
from .record_fields import PUT, WATCH, packed_record

#: Seconds for which a process that ended without saying so is thought to watch a task.
_WATCH_KEPT: Final = 86_400


class RedisRecords(RecordStore):
    """A record store on one `RedisClient`, which is entered by whoever made it."""

    is_pushing = True

    def __init__(self, client: RedisClient, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self.client = client
        self._clock = clock
        self._stop_hearing: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        return self.client.bus.address

    async def __aenter__(self) -> Self:
        self._stop_hearing = self.client.bus.hear(RESULTS, self._heard, self._missed)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()

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
