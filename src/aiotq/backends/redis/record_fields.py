"""How records, joins and envelopes look to the scripts in `lua/`, and what those return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...results.celery_records import CELERYS
from ...results.index import pack_finished
from ...results.ledger import NO_JOIN_CHANGES, Arrival, Join, JoinChanges
from ...results.packing import pack_record, unpack_record
from ...results.records import Record
from .envelopes import PackedEnvelope, packed_envelopes
from .fleet import LIBRARY as FLEET_ROWS
from .schedules import KEYS, packed_change
from .script import Script, unpack

_RESULTS: Final = "results"
_JOINS: Final = "joins"
_OUTCOME: Final = "outcome"
_PERMITS: Final = "permits"


def script(name: str, *libraries: str) -> Script:
    """Return a script on results, with what it includes."""
    return Script("base", "bus", _RESULTS, *libraries, name)


#: What other scripts build upon, beside `base` and `bus`.
LIBRARIES: Final = (_RESULTS, KEYS, _JOINS, _OUTCOME)

PUT: Final = script("put")
FORGET: Final = script("forget")
WATCH: Final = script("watch")
REVOKE: Final = script("revoke")
REVOKED: Final = script("revoked")
UNREVOKE: Final = script("unrevoke")
CLAIM: Final = script("claim")
RENEW_CLAIMS: Final = script("renew_claims", FLEET_ROWS)
CLOSE: Final = Script("base", "bus", *LIBRARIES, "close", late={KEYS, _JOINS})
OPEN_JOINS: Final = script("open_joins", _JOINS)
JOINED: Final = script("joined", _JOINS)
OVERDUE: Final = script("overdue", _JOINS)
BOOK: Final = script("book")
ACQUIRE_PERMITS: Final = script("acquire_permits", _PERMITS)
RENEW_PERMITS: Final = script("renew_permits", _PERMITS)
HAND_OVER_PERMITS: Final = script("hand_over_permits", _PERMITS)
RENEW_PRESENCE: Final = script("renew_presence", FLEET_ROWS)
END_PRESENCE: Final = script("end_presence")
FLEET: Final = script("fleet")


def packed_record(record: Record) -> tuple[object, ...]:
    """Return id, value, end and process of `record`, whether Celery is to see it, and its entry in the index."""
    is_celerys = record.content_type == CELERYS
    if record.entry is None:
        return record.id, pack_record(record), record.expires, record.reply_to or False, is_celerys
    finished, bounds = record.entry.finished, record.entry.bounds
    entry = finished.state, pack_finished(finished), bounds.most, bounds.seconds
    return record.id, pack_record(record), record.expires, record.reply_to or False, is_celerys, entry


def packed_join(join: Join) -> tuple[str, int, list[PackedEnvelope], float, str, float]:
    return join.id, join.size, packed_envelopes(join.then), join.patience * 1000, join.about, join.until


def packed_effects(joining: JoinChanges, further: Sequence[Record], record: Record | None) -> tuple[object, ...]:
    """Return what a finish with `record` has beside that and its envelopes: mostly nothing."""
    if joining is NO_JOIN_CHANGES and not further:
        return ()
    return _packed_joining(joining, record), [packed_record(each) for each in further]


def _packed_joining(joining: JoinChanges, record: Record | None) -> tuple[object, ...] | bool:
    if joining is NO_JOIN_CHANGES:
        return False
    return (
        [packed_join(join) for join in joining.opened],
        [(growth.join_id, growth.count) for growth in joining.grown],
        [_packed_arrival(arrival, record) for arrival in joining.arrivals],
        [(extension.join_id, extension.until) for extension in joining.extended],
        joining.released,
        [packed_change(change) for change in joining.keys],
    )


def _packed_arrival(arrival: Arrival, record: Record | None) -> tuple[str, str, tuple[str, bytes] | bool, bool]:
    if arrival.record is None or arrival.record is record:
        return arrival.join_id, arrival.member, False, arrival.failed
    return arrival.join_id, arrival.member, (arrival.record.id, pack_record(arrival.record)), arrival.failed


def member_of(packed: bytes) -> Record | None:
    """Return the record of a member of a join; None if it is none of ours."""
    try:
        task_id, value = unpack(packed)
        return unpack_record(task_id.decode(), value)
    except (AttributeError, TypeError, ValueError):
        return None
