"""The records in a Redis that Celery shares: its clients read what our workers store, ours what its workers do.

Our own records stay what they are. Each is also kept under Celery's key and published there (see `put_record` in
`lua/results.lua`), and what only Celery has is read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from anyio import to_thread

from ...exceptions import NotConnected
from ...results.celery_records import key_of, record_of
from ...results.records import Record
from ...states import is_ready
from .records import RedisRecords

#: A document larger than this is parsed in a thread.
_LARGE: Final = 64 * 1024


class CeleryRedisRecords(RedisRecords):
    """A record store where and as Celery's Redis backend has it. A cluster can't hold both."""

    #: Celery's workers push to a channel for each task, and know of no other.
    watches_all = True
    tells_watchers = False  # but of what is Celery's

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        ours = await super().get(ids)
        missing = [
            task_id for task_id, record in zip(ids, ours, strict=True) if record is None or not is_ready(record.state)
        ]
        if not missing:
            return ours
        values = await self.client.ask("MGET", *map(key_of, missing))
        found = {
            task_id: await self._read(task_id, value)
            for task_id, value in zip(missing, values, strict=True)
            if value is not None
        }
        return [found.get(task_id) or record for task_id, record in zip(ids, ours, strict=True)]

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        return [None if record is None else record.state for record in await self.get(ids)]  # Celery's have no head

    async def forget(self, ids: Sequence[str]) -> None:
        await super().forget(ids)
        if ids:
            await self.client.ask("DEL", *map(key_of, ids))

    async def watch(self, task_id: str) -> None:
        with suppress(NotConnected):  # it is subscribed to when there is a connection; until then there are looks
            await self.client.listen(key_of(task_id).encode(), partial(self._published, task_id))

    async def unwatch(self, task_id: str) -> None:
        self.client.unlisten(key_of(task_id).encode())

    async def _read(self, task_id: str, value: bytes) -> Record | None:
        if len(value) <= _LARGE:
            return record_of(task_id, value, self._clock.time())
        return await to_thread.run_sync(record_of, task_id, value, self._clock.time())

    def _published(self, task_id: str, value: bytes) -> None:
        record = record_of(task_id, value, self._clock.time()) if len(value) <= _LARGE else None
        if record is not None:
            self.on_push([record])
        else:
            self.on_missed([task_id])
