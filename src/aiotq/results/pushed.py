"""Pushes for a store that has none: whoever writes a record tells the process which waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from ..control.bus import MAX_PAYLOAD, Bus
from .packing import pack_pushed, unpack_pushed
from .records import RESULTS, Record, RecordStore


class PushedRecords(RecordStore):
    """A store whose records are pushed over a bus when they are written through it.

    Who waits for a record that another process asked for finds it by looking.
    """

    is_pushing = True

    def __init__(self, store: RecordStore, bus: Bus) -> None:
        super().__init__()
        self._store = store
        self._bus = bus
        self._stop_hearing: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        return self._bus.address

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        self._stop_hearing = self._bus.hear(RESULTS, self._heard, lambda: self.on_missed(None))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()
        await self._store.__aexit__(*exc_info)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return await self._store.get(ids)

    async def put(self, records: Sequence[Record]) -> None:
        await self._store.put(records)
        by_process: dict[str, list[Record]] = {}
        for record in records:
            if record.reply_to is not None:
                by_process.setdefault(record.reply_to, []).append(record)
        for address, theirs in by_process.items():
            for payload in pack_pushed(theirs, MAX_PAYLOAD):
                await self._bus.tell(address, RESULTS, payload)

    async def forget(self, ids: Sequence[str]) -> None:
        await self._store.forget(ids)

    def _heard(self, payload: bytes) -> None:
        if not self.listening:
            return
        records, unread = unpack_pushed(payload)
        if records:
            self.on_push(records)
        if unread:
            self.on_missed(unread)
