"""What `django.tasks` tells of a call beyond its outcome, as a record of its own beside that of the outcome."""

# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final, Self

import orjson

from ...calling.core import AppCore
from ...exceptions import ResultsDisabled
from ...results.document import Update
from ...results.records import Record

#: The id of the record is that of the task with this behind it.
SUFFIX: Final = ".enqueued"
_STATE: Final = "ENQUEUED"
_DATES: Final = frozenset({"run_after", "enqueued_at", "started_at", "last_attempted_at"})


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A call as it was enqueued, and who began to run it, when."""

    id: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    queue_name: str = "default"
    priority: int = 0
    run_after: datetime | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    worker_ids: Sequence[str] = field(default=())

    def begun(self, worker: str, now: datetime) -> Self:
        """Return it as it is when `worker` begins to run it."""
        ids = (*self.worker_ids, worker)
        return replace(self, started_at=self.started_at or now, last_attempted_at=now, worker_ids=ids)

    async def write(self, core: AppCore) -> None:
        """Store it for as long as results are kept.

        Raises:
            OperationalError: the store can't be reached in the time that sending a call may take.
        """
        connection = await core.connections.within(None, None, None)
        if not connection.keeps_results:
            return
        now = core.clock.time()
        begins = max(now, self.run_after.timestamp()) if self.run_after else now
        plain: object = orjson.loads(orjson.dumps(asdict(self)))  # its times as text
        body, kind = core.codec.encode_chunk(plain), core.codec.chunk_content_type  # encrypted, if results are
        expires = begins + core.conf.result_expires
        await connection.records.put([Record(self.id + SUFFIX, _STATE, body, kind, expires)])

    @classmethod
    async def read(cls, core: AppCore, task_id: str) -> tuple[Self | None, Update | None]:
        """Return what is stored of a call: how it was enqueued, and its present state.

        Raises:
            ResultsDisabled: nothing is.
        """
        try:
            reader = await core.reader()
        except ResultsDisabled:
            return None, None
        sent, now = await reader.records.get([task_id + SUFFIX, task_id])
        return (
            cls._read(reader.codec.decode_chunk(sent.content_type, sent.body)) if sent is not None else None,
            Update.of(reader.codec.decode(now)) if now is not None else None,
        )

    @classmethod
    def _read(cls, said: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        dates: dict[str, Any] = {name: datetime.fromisoformat(said[name]) for name in _DATES if said.get(name)}
        return cls(**{name: given for name, given in said.items() if name in known} | dates)
