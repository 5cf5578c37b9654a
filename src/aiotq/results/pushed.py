"""Records that are pushed over a bus: what stores have in common that do so, and pushes for a store that has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from ..control.bus import MAX_PAYLOAD, Bus
from .index import FinishedPage, FinishedQuery
from .packing import pack_pushed, unpack_pushed
from .records import RESULTS, Record, RecordStore


class HeardRecords(RecordStore):
    """A store whose records are pushed over `bus`."""

    is_pushing = True

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus
        self._stop_hearing: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        return self.bus.address

    async def __aenter__(self) -> Self:
        self._stop_hearing = self.bus.hear(RESULTS, self._heard, lambda: self.on_missed(None))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop_hearing()

    def _heard(self, payload: bytes) -> None:
        if not self.listening:
            return
        records, unread = unpack_pushed(payload)
        if records:
            self.on_push(records)
        if unread:
            self.on_missed(unread)


class PushedRecords(HeardRecords):
    """A store whose records are pushed when they are written through it.

    A process that waits for a record which another process asked for finds it by looking. `is_local`: no other process
    hears the bus.
    """

    tells_watchers = False

    def __init__(self, store: RecordStore, bus: Bus, *, is_local: bool = False) -> None:
        super().__init__(bus)
        self._store = store
        self._is_local = is_local
        self.has_index = store.has_index
        self.is_shared = store.is_shared

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__()
        await self._store.__aexit__(*exc_info)

    @property
    def is_polled(self) -> bool:
        return self._is_local or self._store.is_polled

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return await self._store.get(ids)

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        return await self._store.states(ids)

    async def find(self, query: FinishedQuery) -> FinishedPage:
        return await self._store.find(query)

    async def unlist(self, keys: Sequence[str]) -> int:
        return await self._store.unlist(keys)

    async def put(self, records: Sequence[Record]) -> None:
        by_process: dict[str, list[Record]] = {}
        for record in await self._store.stored(records):
            if record.reply_to is not None:
                by_process.setdefault(record.reply_to, []).append(record)
        for address, theirs in by_process.items():
            for payload in pack_pushed(theirs, MAX_PAYLOAD):
                await self.bus.tell(address, RESULTS, payload)

    async def forget(self, ids: Sequence[str]) -> None:
        await self._store.forget(ids)
