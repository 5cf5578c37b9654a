"""A record store in memcached: one value an id, which is replaced only as it was read.

`docs/guides/stores.md` goes through this file: it is the example of a store.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.packing import pack_record, unpack_record
from ...results.records import Record, RecordStore, newest_of
from ...states import READY_STATES
from .connection import MemcachedClient

#: Seconds from which on memcached takes a lifetime for a time of day. Source: memcached, `doc/protocol.txt`.
_LONGEST: Final = 30 * 86_400
#: The ids that are keys as they are, behind the prefix; of others the digest is.
_KEY: Final = re.compile(r"[!-~]{1,120}")


class _Standing(NamedTuple):
    """What stands for an id: a record (None: it has expired), and the number of that value (None: there is none)."""

    record: Record | None = None
    number: int | None = None

    @property
    def stays(self) -> bool:
        return self.record is not None and self.record.state in READY_STATES


class MemcachedRecords(RecordStore):
    """Records in one memcached, or spread over several."""

    def __init__(self, client: MemcachedClient, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._client = client
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.__aexit__(*exc_info)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        standing = await self._standing(dict.fromkeys(ids))
        return [standing[task_id].record for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        await self.stored(records)

    async def stored(self, records: Sequence[Record]) -> Sequence[Record]:
        written: list[Record] = []
        left = list(newest_of(records).values())
        while left:  # again for those that somebody else wrote meanwhile
            standing = await self._standing([record.id for record in left])
            left = [record for record in left if not standing[record.id].stays]
            done = await self._write(left, [standing[record.id].number for record in left])
            written += done
            left = [record for record in left if record not in done]
        return written

    async def forget(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            await self._client.delete(self._key(task_id))

    async def _standing(self, ids: Collection[str]) -> dict[str, _Standing]:
        keys = {task_id: self._key(task_id) for task_id in ids}
        found = await self._client.read(list(keys.values()))
        now = self._clock.time()
        standing: dict[str, _Standing] = {}
        for task_id, key in keys.items():
            value, number = found.get(key, (b"", None))
            record = unpack_record(task_id, value)
            standing[task_id] = _Standing(record if record is not None and record.expires > now else None, number)
        return standing

    async def _write(self, records: Sequence[Record], numbers: Sequence[int | None]) -> list[Record]:
        """Write records over the values with these numbers; return those of which it was so."""
        answers = await asyncio.gather(*map(self._write_one, records, numbers), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [record for record, is_done in zip(records, answers, strict=True) if is_done]

    async def _write_one(self, record: Record, number: int | None) -> bool:
        """Write `record` over the value with this number, None: where there is none; return whether it was so."""
        # In whole seconds, one more than it lasts: the value itself says when it expires.
        seconds = max(0, math.ceil(record.expires - self._clock.time())) + 1
        expires = seconds if seconds < _LONGEST else math.ceil(time.time()) + seconds
        key, value = self._key(record.id), pack_record(record)
        if number is None:
            return await self._client.add(key, value, expires=expires)
        return await self._client.replace(key, value, number, expires=expires)

    def _key(self, task_id: str) -> bytes:
        plain = task_id if _KEY.fullmatch(task_id) else f"#{hashlib.sha256(task_id.encode()).hexdigest()}"
        return (self._client.address.prefix + plain).encode()
