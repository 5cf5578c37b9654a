"""A record store in the project's database, through the ORM: any database that Django knows."""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar, cast

import orjson
from django.db import DatabaseError, DataError, InterfaceError, connections, router, transaction
from django.db.models import Q
from django.db.utils import OperationalError as CannotBeReached
from django.db.utils import ProgrammingError
from django.utils import timezone

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import ConnectionLost, OperationalError, Refused
from ...results.records import Record, RecordStore, newest_of
from ...states import READY_STATES
from ...wire.message import new_id
from .models import TaskRecord

T = TypeVar("T")

#: Ids in one statement: databases have limits, the lowest of them is SQLite's old one of 999.
_MOST: Final = 400
#: Seconds between looks for what has expired, and how much of it one look deletes.
_CLEANED: Final = 60.0
_MOST_CLEANED: Final = 1000
#: What another state of a task changes.
_COLUMNS: Final = ("state", "is_final", "task", "content_type", "body", "expires", "reply_to", "stored", "written")


class DjangoRecords(RecordStore):
    """Records in the table of `TaskRecord`. Used through a thread of its own, which has a connection of its own."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._thread: ThreadPoolExecutor | None = None
        self._cleaned = time.monotonic()

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "aiotq.django")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            # When the interpreter exits, its pools have ended by now, and the connection with its thread.
            with suppress(RuntimeError):
                await asyncio.get_running_loop().run_in_executor(thread, connections.close_all)
            thread.shutdown(wait=False)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return ()
        found = await self._in_thread(lambda: _found(ids, self._clock.time()))
        return [found.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        await self.stored(records)

    async def stored(self, records: Sequence[Record]) -> Sequence[Record]:
        if not records:
            return ()
        new = await self._in_thread(lambda: self._put(records))
        return [record for record in records if record in new]

    async def forget(self, ids: Sequence[str]) -> None:
        await self._in_thread(lambda: _forget(ids))

    def _put(self, records: Sequence[Record]) -> Collection[Record]:
        now = self._clock.time()
        new = _write(records, now)
        if time.monotonic() - self._cleaned >= _CLEANED:
            self._cleaned = time.monotonic()
            expired = TaskRecord.objects.filter(expires__lte=now).order_by()
            _forget(list(expired.values_list("id", flat=True)[:_MOST_CLEANED]))
        return new

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise OperationalError("results in the Django database: the store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, _translated, work)


def _translated(work: Callable[[], T]) -> T:
    """Return what `work` returns; errors in our words. A connection that failed is closed: the next use opens one."""
    try:
        return work()
    except (DataError, ValueError) as exc:
        raise Refused(f"the Django database can't keep a result: {exc}", "unencodable") from exc
    except ProgrammingError as exc:
        raise OperationalError(f"the Django database: {exc} (is its table there? `manage.py migrate`)") from exc
    except (CannotBeReached, InterfaceError) as exc:
        connections.close_all()
        if "no such table" in str(exc):  # SQLite
            raise OperationalError(f"the Django database: {exc} (`manage.py migrate` makes it)") from exc
        raise ConnectionLost(f"the Django database: {exc}") from exc
    except DatabaseError as exc:
        connections.close_all()
        raise OperationalError(f"the Django database: {exc}") from exc


def _found(ids: Sequence[str], now: float) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for chunk in _chunks(list(dict.fromkeys(ids))):
        rows = TaskRecord.objects.filter(id__in=chunk, expires__gt=now).order_by()
        for row in rows.values_list("id", "state", "body", "content_type", "expires", "reply_to"):
            found[row[0]] = Record(row[0], row[1], bytes(row[2]), *row[3:])
    return found


def _write(records: Sequence[Record], now: float) -> list[Record]:
    """Store states, unless a final one stands already: the database decides that. Return what was stored."""
    newest = newest_of(records)
    new: list[Record] = []
    for chunk in _chunks(list(newest)):
        rows = {task_id: _row(newest[task_id]) for task_id in chunk}
        with transaction.atomic(using=router.db_for_write(TaskRecord)):
            # Inserting comes first: SQLite can't turn a transaction that has read into one that writes.
            TaskRecord.objects.bulk_create(rows.values(), ignore_conflicts=True)
            found = TaskRecord.objects.filter(id__in=chunk).order_by()
            new += [
                newest[task_id]
                for task_id, is_final, expires, written in found.values_list("id", "is_final", "expires", "written")
                if written == rows[task_id].written  # it was inserted
                or ((not is_final or expires <= now) and _replaced(rows[task_id], now))
            ]
    return new


def _replaced(row: TaskRecord, now: float) -> bool:
    """Whether `row` could be written over what stands there."""
    changed = {name: getattr(row, name) for name in _COLUMNS}
    replaceable = Q(is_final=False) | Q(expires__lte=now)
    return TaskRecord.objects.filter(replaceable, id=row.id).update(**changed) > 0


def _row(record: Record) -> TaskRecord:
    return TaskRecord(
        id=record.id,
        state=record.state,
        is_final=record.state in READY_STATES,
        task=_task_of(record),
        content_type=record.content_type,
        body=record.body,
        expires=record.expires,
        reply_to=record.reply_to,
        stored=timezone.now(),
        written=new_id(),
    )


def _task_of(record: Record) -> str:
    """Return the name of the task, if the document says it in a form that can be read without the app."""
    if not record.content_type.startswith("application/json") or ";" in record.content_type:
        return ""
    try:
        document: Any = orjson.loads(record.body)
    except orjson.JSONDecodeError:
        return ""
    name = cast("dict[str, Any]", document).get("name") if isinstance(document, dict) else None
    return name if isinstance(name, str) else ""


def _forget(ids: Sequence[str]) -> None:
    for chunk in _chunks(ids):
        TaskRecord.objects.filter(id__in=chunk).delete()


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _MOST):
        yield ids[start : start + _MOST]
