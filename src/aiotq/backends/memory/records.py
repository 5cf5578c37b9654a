"""Records in this process: for tests and for embedding, with the meaning of every other store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from ...results.records import RESULTS, Record, RecordStore
from .bus import MemoryBus
from .state import MemoryState


class MemoryRecords(RecordStore):
    """One loop's view of the records of a `MemoryState`; they are pushed as they are."""

    is_pushing = True

    def __init__(self, state: MemoryState, bus: MemoryBus) -> None:
        super().__init__()
        self.state = state
        self._bus = bus
        self._stop_hearing: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        return self._bus.address

    async def __aenter__(self) -> Self:
        self._stop_hearing = self._bus.hear(RESULTS, self._heard, lambda: self.on_missed(None))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()
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

    async def watch(self, task_id: str) -> None:
        with self.state.lock:
            self.state.watch(task_id, self.address)

    async def unwatch(self, task_id: str) -> None:
        with self.state.lock:
            self.state.unwatch(task_id, self.address)

    def _heard(self, record: Any) -> None:
        self.on_push((record,))
