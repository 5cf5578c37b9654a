"""Records in this process: for tests and for embedding, with the meaning of every other store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...results.index import Chunk, FinishedPage, FinishedQuery, checked, searched
from ...results.pushed import HeardRecords
from ...results.records import Record
from .bus import MemoryBus
from .state import MemoryState


class MemoryRecords(HeardRecords):
    """One loop's view of the records of a `MemoryState`; they are pushed as they are."""

    has_index = True

    def __init__(self, state: MemoryState, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.state = state

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__()
        with self.state.lock:
            self.state.unwatch_all(self.address)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self.state.lock:
            return [self.state.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        with self.state.lock:
            for record in records:
                self.state.put(record)

    async def forget(self, ids: Sequence[str]) -> None:
        with self.state.lock:
            for task_id in ids:
                self.state.forget(task_id)

    async def find(self, query: FinishedQuery) -> FinishedPage:
        with self.state.lock:
            counts = self.state.finished.counts()
        return await searched(checked(query), self._read, counts)

    async def unlist(self, keys: Sequence[str]) -> int:
        with self.state.lock:
            return self.state.finished.unlist(keys)

    async def _read(self, query: FinishedQuery, before: str | None, count: int) -> Chunk:
        with self.state.lock:
            return self.state.finished.read(query, before, count, self.state.clock.time())

    async def watch(self, task_id: str) -> None:
        with self.state.lock:
            self.state.watch(task_id, self.address)

    async def unwatch(self, task_id: str) -> None:
        with self.state.lock:
            self.state.unwatch(task_id, self.address)

    def _heard(self, payload: Any) -> None:
        self.on_push((payload,))
