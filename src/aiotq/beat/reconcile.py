"""What code says, compared with what the ledger has: which entries were added, changed, and are gone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from ..calling.core import AppCore
from ..core.values import replace
from ..exceptions import ScheduleError
from ..results.ledger import ScheduleChange, ScheduleRow
from .entries import Entry
from .rows import Kept, State, body_of, definition_of, new_mark, read_row
from .schedules import Schedule

logger = logging.getLogger("aiotq.beat")


def reconciled(
    core: AppCore, scope: str, declared: Mapping[str, Entry], rows: Sequence[ScheduleRow], now: datetime
) -> list[ScheduleChange]:
    """Return the changes that make the rows say what code says. Entries of run time stay.

    A new entry begins now, and so does one with another schedule: what it would have missed before it was not asked
    for. A pause stays.
    """
    changes: list[ScheduleChange] = []
    by_name = {row.name: row for row in rows}
    for name, entry in declared.items():
        row = by_name.get(name)
        definition = definition_of(core, entry)
        kept = None if row is None else _read(core, row)
        if kept is not None and kept.definition == definition:
            continue
        seen = "" if row is None else row.mark
        state = State(now)
        if kept is not None:
            is_same = kept.entry is None or _is_same(kept.entry, entry)
            state = kept.state if is_same else replace(kept.state, last=now)
        logger.info("periodic task %s of code was %s: %s", name, "added" if row is None else "changed", entry.schedule)
        if kept is not None and not kept.is_of_code:
            logger.warning("periodic task %s was added at run time, and code now says it: code counts", name)
        unsent = () if row is None else row.unsent
        changes.append(ScheduleChange(scope, name, seen, new_mark(), body_of(definition, state), unsent, tells=True))
    for row in rows:
        if row.name not in declared and (kept := _read(core, row)) is not None and kept.is_of_code:
            logger.info("periodic task %s is gone from code: removed", row.name)
            changes.append(ScheduleChange(scope, row.name, row.mark, "", tells=True))
    return changes


def _is_same(before: Entry, after: Entry) -> bool:
    """Whether both are due at the same times."""
    first: Schedule = before.schedule
    return first == after.schedule and before.zone == after.zone


def _read(core: AppCore, row: ScheduleRow) -> Kept | None:
    try:
        return read_row(core, row)
    except ScheduleError:
        return None
