"""Finishes as columns: what many of a group have in common is said once, which costs the server half of the time.

A plain finish acknowledges a message of ours and stores its record, frees the key of its call if that has one, and has
nothing else to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import msgpack

from ...commit.committer import Finish
from ...control.bus import frame
from ...results.celery_records import CELERYS
from ...results.index import IndexBounds, pack_finished
from ...results.ledger import NO_JOIN_CHANGES
from ...results.packing import pack_record
from ...results.records import RESULTS
from ...transport.broker import ACK
from .messages import OUT_OF_LANES

#: Bytes of records that one process is told at once, about.
_MOST_TOLD: Final = 60_000
#: Milliseconds that a server can count to.
_LONGEST_LIFE: Final = 2**52
_PACK: Final = msgpack.Packer(use_bin_type=False, autoreset=True).pack

#: Queue, level, the address of the process that waits for the results; and of entries for the index, if there are any,
#: the state and how much of them is kept; and whether each frees a key.
Column = tuple[str, str, str | None, tuple[str, IndexBounds] | None, bool]


class Row(NamedTuple):
    """A finish, its column, and the entry that it settles. Without a column it is written alone."""

    finish: Finish
    column: Column | None = None
    entry: str = ""


def by_column(group: Sequence[Finish]) -> Sequence[Row]:
    """Return the finishes of `group`: those of a column together, those without one last."""
    columns: dict[Column | None, list[Row]] = {}
    alone: list[Row] = []
    for finish in group:
        row = _row(finish)
        if row.column is None:
            alone.append(row)
        else:
            columns.setdefault(row.column, []).append(row)
    if len(columns) == 1 and not alone:
        return next(iter(columns.values()))
    return [*(row for rows in columns.values() for row in rows), *alone]


def _row(finish: Finish) -> Row:
    delivery, record = finish.delivery, finish.record
    if (
        delivery is None
        or record is None
        or finish.settlement is not ACK
        or finish.envelopes
        or finish.further
        or (finish.joining is not NO_JOIN_CHANGES and _freed(finish) is None)
        or finish.schedule is not None
        or record.content_type == CELERYS
        or len(record.body) > _MOST_TOLD
        or delivery.message.attempt
        or delivery.message.id != record.id
    ):
        return Row(finish)
    level, entry, queue = str(delivery.lease).split(" ", 2)
    if not level.isdecimal() and level != OUT_OF_LANES:
        return Row(finish)
    listed = None if record.entry is None else (record.entry.finished.state, record.entry.bounds)
    return Row(finish, (queue, level, record.reply_to, listed, finish.joining is not NO_JOIN_CHANGES), entry)


def _freed(finish: Finish) -> tuple[str, str] | None:
    """Return the name and the mark of the key that a finish frees, if that is all that it does to joins and keys."""
    joining = finish.joining
    if len(joining.keys) != 1 or joining.opened or joining.grown or joining.arrivals:
        return None
    change = joining.keys[0]
    is_freed = change.mark == "" and change.lasts is not None and not (joining.extended or joining.released)
    return (change.name, change.seen) if is_freed else None


def packed_columns(rows: Sequence[Row], now: float) -> tuple[list[tuple[object, ...]], list[bytes], list[Finish]]:
    """Return columns as COMMIT reads them, what the process of each is told, and the finishes without a column."""
    columns: list[tuple[object, ...]] = []
    told: list[bytes] = []
    alone: list[Finish] = []
    for column, theirs in groupby(rows, key=_column_of):
        if column is None:
            alone += [row.finish for row in theirs]
            continue
        queue, level, reply_to, listed, is_keyed = column
        for entries, lives, records, index, freed in _packed(theirs, now):
            common = (queue, level, entries, lives, reply_to or False)
            listing = False if listed is None else (listed[0], listed[1].most, listed[1].seconds, index)
            if is_keyed:
                columns.append((*common, listing, freed))
            else:
                columns.append((*common, listing) if listing else common)
            told.append(frame(RESULTS, _PACK(records)))
    return columns, told, alone


def _column_of(row: Row) -> Column | None:
    return row.column


def _packed(
    rows: Iterator[Row], now: float
) -> Iterator[tuple[list[str], list[str], list[str | bytes], list[bytes], list[str]]]:
    """Yield entries, lives of their records in milliseconds, ids and records in turn, what the index is to have, and
    names and marks of the keys that are freed.

    Each time not too much is told at once.
    """
    index: list[bytes] = []
    freed: list[str] = []
    entries: list[str] = []
    lives: list[str] = []
    records: list[str | bytes] = []
    size = 0
    for finish, _, entry in rows:
        record = finish.record
        assert record is not None
        packed = pack_record(record)
        if entries and size + len(packed) > _MOST_TOLD:
            yield entries, lives, records, index, freed
            entries, lives, records, index, freed, size = [], [], [], [], [], 0
        size += len(packed) + len(record.id)
        entries.append(entry)
        lives.append(str(max(1, min(_LONGEST_LIFE, round((record.expires - now) * 1000)))))
        records += (record.id, packed)
        if record.entry is not None:
            index.append(pack_finished(record.entry.finished))
        if finish.joining is not NO_JOIN_CHANGES and (of_key := _freed(finish)) is not None:
            freed += of_key
    yield entries, lives, records, index, freed
