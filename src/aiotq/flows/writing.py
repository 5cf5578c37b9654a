"""Writes a journal together with what is sent, or neither."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..calling.publisher import KeyTaken
from ..exceptions import JournalFull
from ..results import Join, ScheduleChange, key_change
from ..results.record_names import FLOW_ENDED, flow_row
from ..wire.message import Envelope
from ..wire.signing import sealed
from .journal import BY_END, KEPT, MAX_SIZE, Journal, generation_of, packed

if TYPE_CHECKING:
    from ..calling.connection import Connection
    from ..calling.core import AppCore


def change_of(journal: Journal, seen: str, lasts: float) -> ScheduleChange:
    """Return the write of `journal` to its row, whose mark was `seen`."""
    mark = os.urandom(8).hex()
    if journal.ended_by is not None or journal.is_revoked:
        mark = FLOW_ENDED + mark
    return key_change(flow_row(journal.message.id), seen, mark, lasts, packed(journal))


def full(journal: Journal, size: int) -> JournalFull:
    """Return the error that tells of a journal of so many bytes."""
    message = journal.message
    return JournalFull(
        f"the journal of flow {message.task}[{message.id}] has {size} bytes, over the limit of {MAX_SIZE}: let steps "
        "return references to what is large, and a long flow end by calling another one"
    )


def opening(envelope: Envelope, seen: str, now: float) -> ScheduleChange:
    """Return the write of the row of a flow that is sent as `envelope`."""
    message = envelope.message
    journal = Journal(message, envelope.queue, envelope.priority, generation_of(message))
    return change_of(journal, seen, max((envelope.due or now) - now, 0.0) + KEPT)


def joins_of(core: AppCore, journal: Journal, first: int = 0, until: float = 0.0) -> tuple[Join, ...]:
    """Return the joins of the steps from number `first` on that have not ended; one that is open stays as it is."""
    return tuple(
        journal.join(number, sealed(core.signer, journal.wake(number, BY_END)), core.conf.join_timeout, until)
        for number in journal.pending
        if number >= first and journal.asked[number].kind == "step"
    )


async def written(
    connection: Connection, change: ScheduleChange, envelopes: Sequence[Envelope], joins: tuple[Join, ...] = ()
) -> bool:
    """Write a row and send what goes with it, in one step; False: it was changed meanwhile, and nothing is done.

    Raises:
        OperationalError: broker or ledger can't be reached; it may have been done.
    """
    if not envelopes:
        return (await connection.ledger.change_schedules([change]))[0]
    try:
        await connection.publisher.publish(envelopes, None, joins, None, (), change)
    except KeyTaken:
        return False
    return True
