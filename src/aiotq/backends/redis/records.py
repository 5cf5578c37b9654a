"""The record store in a Redis: strings that expire, and pushes (see `lua/results.lua` for the keys)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from anyio import to_thread

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.index import Chunk, FinishedPage, FinishedQuery, checked, searched
from ...results.packing import unpack_record
from ...results.pushed import HeardRecords
from ...results.records import Record
from .connection import RedisClient
from .finished import STATES, place_of, sift, span
from .record_fields import PUT, WATCH, packed_record

#: Seconds for which a process that ended without saying so is thought to watch a task.
_WATCH_KEPT: Final = 86_400
#: Bytes at the beginning of a record that have its state: the address that it is pushed to stands there too.
_MOST_HEAD: Final = 1_024
#: Entries of the index that are read in the loop; more than that in a thread.
_AT_ONCE: Final = 200


class RedisRecords(HeardRecords):
    """A record store on one `RedisClient`, which its owner enters."""

    has_index = True

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

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        heads = await asyncio.gather(*(self.client.ask("GETRANGE", self._key(each), 0, _MOST_HEAD) for each in ids))
        records = (unpack_record(each, head) if head else None for each, head in zip(ids, heads, strict=True))
        return [None if record is None else record.state for record in records]

    async def put(self, records: Sequence[Record]) -> None:
        if records:
            await self.client.run(PUT, [self._clock.time(), [packed_record(record) for record in records]])

    async def forget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.client.ask("DEL", *map(self._key, ids))

    async def find(self, query: FinishedQuery) -> FinishedPage:
        query = checked(query)
        counts = await asyncio.gather(*(self.client.ask("XLEN", self._finished_key(state)) for state in STATES))
        found = {state: count for state, count in zip(STATES, counts, strict=True) if count}
        return await searched(query, self._read_finished, found)

    async def unlist(self, keys: Sequence[str]) -> int:
        by_state: dict[str, list[str]] = {}
        for key in keys:
            if (place := place_of(key)) is not None:
                by_state.setdefault(place.state, []).append(place.entry)
        return sum(
            [await self.client.ask("XDEL", self._finished_key(state), *entries) for state, entries in by_state.items()]
        )

    async def _read_finished(self, query: FinishedQuery, before: str | None, count: int) -> Chunk:
        replies = await asyncio.gather(
            *(
                self.client.ask("XREVRANGE", self._finished_key(state), *span(query, before, state), "COUNT", count)
                for state in query.states
            )
        )
        found = dict(zip(query.states, replies, strict=True))
        if count <= _AT_ONCE:
            return sift(query, found, count)
        return await to_thread.run_sync(sift, query, found, count)

    def _finished_key(self, state: str) -> str:
        return f"{self.client.base}:finished:{state}"

    async def watch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, True, _WATCH_KEPT])

    async def unwatch(self, task_id: str) -> None:
        await self.client.run(WATCH, [self.address, task_id, False, _WATCH_KEPT])

    def _key(self, task_id: str) -> str:
        return f"{self.client.base}:result:{task_id}"
