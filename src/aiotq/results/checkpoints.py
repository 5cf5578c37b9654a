"""What long calls keep for their later runs: records beside their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .reader import Reader
from .record_names import key_of
from .records import Record

#: The state of these records; no task ends in it.
_KEPT: Final = "CHECKPOINT"


class Checkpoints:
    """What one call keeps."""

    def __init__(self, source: Reader, task_id: str, now: Callable[[], float]) -> None:
        self._records, self._codec = source.records, source.codec
        self._task_id = task_id
        self._now = now

    async def put(self, what: str, state: Any, expires: float) -> None:
        """Keep `state` for so many seconds, in place of what was kept."""
        body = self._codec.encode_chunk(state)
        until = self._now() + expires
        await self._records.put(
            [Record(_id_of(self._task_id, what), _KEPT, body, self._codec.chunk_content_type, until)]
        )

    async def get(self, what: str, default: Any) -> Any:
        """Return what was kept last, or `default`."""
        (found,) = await self._records.get([_id_of(self._task_id, what)])
        return default if found is None else self._codec.decode_chunk(found.content_type, found.body)


def _id_of(task_id: str, what: str) -> str:
    return f"{key_of(task_id)}.{what}"
