"""The part of an app that result handles use, and the app that an unpickled handle belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, cast

from .. import states
from ..control.bus import Bus
from ..control.celery_mail import CeleryMail
from ..core.inside import core_of
from ..core.sync import Bridge
from ..core.values import replace, value
from ..exceptions import CallError
from ..tasks.request import running_request
from .document import Document, DocumentCodec
from .ledger import Ledger, key_change
from .record_names import FLOW_ENDED, checkpoints_of, flow_row
from .records import Record, RecordStore
from .waiting import Waiting


@value
class Reader:
    """The parts of a connected app that a result uses."""

    records: RecordStore
    ledger: Ledger
    bus: Bus
    waiting: Waiting
    codec: DocumentCodec
    result_expires: float
    #: Why what waits in one of these queues does not go on, as far as that is known.
    why_waiting: Callable[[Collection[str]], Awaitable[str | None]]
    shape: Callable[[str | None, Any], Any]
    """Returns the value of a task of that name as its return annotation says, as far as it fits that."""
    celery: CeleryMail | None  #: the way to Celery's workers, where there may be any

    def document(self, record: Record, task_name: str | None) -> Document:
        """Return what `record` says, its value as the caller of the task is to have it; raises as `codec.decode`."""
        document = self.codec.decode(record)
        if document.state == states.SUCCESS:
            value = self.shape(document.name or task_name, document.result)
            if value is not document.result:
                document = replace(document, result=value)
        return document

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete the outcomes of these tasks, the claims that say that they ran, and the journals of ended flows."""
        await self.ledger.forget(ids)
        await self.records.forget([*ids, *checkpoints_of(ids)])
        rows = await self.ledger.keys([flow_row(each) for each in ids])
        over = [key_change(row.name, row.mark, "", 0.0) for row in rows if row.mark.startswith(FLOW_ENDED)]
        if over:
            await self.ledger.change_schedules(over)


class Readers(Protocol):
    """The part of an app's core that result handles use."""

    @property
    def _core(self) -> Readers: ...

    @property
    def bridge(self) -> Bridge: ...

    async def reader(self) -> Reader:
        """Return the reader of results in the running loop; connect if there is no connection yet."""
        ...

    def now(self) -> float:
        """Wall time."""
        ...


_default_readers: list[Readers] = []


def set_default_readers(readers: Readers) -> None:
    """Make `readers` the app of results that name none, where no task runs."""
    _default_readers[:] = [readers]


def default_readers() -> Readers:
    """Return the core of the app of results that name none: that of the running task, or the default."""
    task: Any = running_request.get().runner
    if task is not None:
        return cast(Readers, core_of(task))
    if not _default_readers:
        raise CallError("a result belongs to an app: create an AioTQ first")
    return _default_readers[0]
