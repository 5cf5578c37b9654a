"""Leaving calls in a table of the user's database, in the user's transaction, from which workers send them (P1)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

from ..backends.base import Statement
from ..core.values import value
from ..exceptions import CallError, MalformedMessage
from ..results import Join, Record
from ..results.index import IndexBounds, IndexEntry, pack_finished, unpack_finished
from ..results.packing import pack_record, unpack_record
from ..wire.message import Envelope, new_id, pack_envelope, unpack_envelope
from .connection import Connection
from .in_transaction import Collecting, InTransaction
from .pipeline import Batch
from .sessions import Session

if TYPE_CHECKING:
    from .core import AppCore

TABLE: Final = "aiotq_outbox"
_INSERT: Final = (f"insert into {TABLE} (id, parcel) values (", ", ", ")")
_NO_TABLE: Final = (
    f"this session's database has no table {TABLE}: is it the one that the setting outbox names, and was "
    "`aiotq migrate-db` run?"
)


class Outbox(InTransaction):
    """Leaves calls in the table `aiotq_outbox`, with your commit or not at all; workers send them from there.

        async with session.begin():
            session.add(order)
            await session.flush()
            await app.outbox(session).call(charge.s(order.id))

    For apps whose messages are elsewhere than their data. Sessions and `.sync` are those of `InTransaction`, on any
    database that the setting `outbox` can name. A call is sent within about a second of the commit, exactly once.
    """

    def __init__(self, core: AppCore, session: object) -> None:
        if core.conf.outbox is None:
            raise CallError(
                "no worker would send what is left in an outbox: set outbox to the URL of its database (db+postgresql://…)"
            )
        super().__init__(core, session)
        self._session = _Leaving(self._session)
        self._collecting = _Parcels

    def __repr__(self) -> str:
        return f"<the outbox in a transaction of {self._session}>"


class _Leaving(Session):
    """A session in which rows are inserted, whatever its database; its answer is one row, which says nothing."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.is_async = session.is_async

    def __str__(self) -> str:
        return str(self._session)

    def check(self) -> None:
        self._session.check_begun()

    def rows(self, statement: Statement) -> Any:
        if self.is_async:
            return self._rows(statement)
        try:
            self._session.run(statement)
        except Exception as exc:
            raise _translated(exc) from exc.__cause__
        return [()]

    async def _rows(self, statement: Statement) -> Any:
        try:
            await self._session.run(statement)
        except Exception as exc:
            raise _translated(exc) from exc.__cause__
        return [()]


def _translated(exc: Exception) -> Exception:
    """Return what to raise for an error of the driver's: its own, unless the table is not there."""
    said = str(getattr(exc, "orig", None) or exc).lower()
    return CallError(_NO_TABLE) if TABLE in said and ("exist" in said or "no such table" in said) else exc


class _Parcels(Collecting):
    """Makes a row of what it is asked to send."""

    async def _statement(self, connection: Connection, sent: Sequence[Envelope], batch: Batch) -> Statement:
        parcel = pack_parcel(Parcel(tuple(sent), tuple(batch.joins), tuple(batch.records)))
        return Statement(_INSERT, (new_id(), parcel), _is_held, _ignore)


def _is_held(_: Sequence[Any]) -> bool:
    return True


def _ignore(_: Sequence[Any]) -> None:
    return None


@value
class Parcel:
    """What one row of the outbox has: messages, and what must be there before they are sent."""

    envelopes: tuple[Envelope, ...]
    joins: tuple[Join, ...] = ()
    records: tuple[Record, ...] = ()


def pack_parcel(parcel: Parcel) -> str:
    """Return `parcel` as text, which any database keeps."""
    joins = [
        [join.id, join.size, [pack_envelope(each) for each in join.then], join.patience, join.about, join.until]
        for join in parcel.joins
    ]
    records = [[record.id, pack_record(record), _packed_entry(record.entry)] for record in parcel.records]
    packed: bytes = msgpack.packb([[pack_envelope(each) for each in parcel.envelopes], joins, records])
    return b64encode(packed).decode()


def unpack_parcel(text: str) -> Parcel:
    """Return what `pack_parcel` packed.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        envelopes, joins, records = msgpack.unpackb(b64decode(text, validate=True))
        return Parcel(
            tuple(map(unpack_envelope, envelopes)),
            tuple(Join(join[0], join[1], tuple(map(unpack_envelope, join[2])), *join[3:]) for join in joins),
            tuple(_record(*each) for each in records),
        )
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as exc:
        raise MalformedMessage(f"it is no parcel: {type(exc).__name__}: {exc}") from exc


def _packed_entry(entry: IndexEntry | None) -> list[Any] | None:
    return None if entry is None else [pack_finished(entry.finished), entry.bounds.most, entry.bounds.seconds]


def _record(task_id: str, packed: bytes, entry: list[Any] | None) -> Record:
    record = unpack_record(task_id, packed)
    if record is None:
        raise ValueError(f"what is kept of {task_id} is no record")
    about = unpack_finished(entry[0], "") if entry is not None else None
    if about is None or entry is None:
        return record
    bounds = IndexBounds(entry[1], entry[2])
    return Record(
        *(record.id, record.state, record.body, record.content_type, record.expires, record.reply_to),
        entry=IndexEntry(about, bounds),
    )
