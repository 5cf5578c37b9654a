"""How records, joins and envelopes look to the scripts in `lua/`, and what those return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from ...results.base import NO_JOIN_CHANGES, Arrival, Join, JoinChanges, Record
from ...results.celery_records import CELERYS
from ...states import READY_STATES
from .envelopes import PackedEnvelope, packed_envelopes
from .script import Script, unpack

_RESULTS: Final = "results"
_JOINS: Final = "joins"
_PERMITS: Final = "permits"


def script(name: str, *libraries: str) -> Script:
    """Return a script on results, with what it includes."""
    return Script("base", _RESULTS, *libraries, name)


#: What other rooms build upon, beside `base`.
LIBRARIES: Final = (_RESULTS, _JOINS)

PUT: Final = script("put")
FORGET: Final = script("forget")
WATCH: Final = script("watch")
REVOKE: Final = script("revoke")
REVOKED: Final = script("revoked")
UNREVOKE: Final = script("unrevoke")
CLAIM: Final = script("claim")
RENEW_CLAIMS: Final = script("renew_claims")
CLOSE: Final = script("close", _JOINS)
OPEN_JOINS: Final = script("open_joins", _JOINS)
JOINED: Final = script("joined", _JOINS)
OVERDUE: Final = script("overdue", _JOINS)
BOOK: Final = script("book")
ACQUIRE_PERMITS: Final = script("acquire_permits", _PERMITS)
KEEP_PERMITS: Final = script("renew_permits", _PERMITS)
HAND_OVER_PERMITS: Final = script("hand_over_permits", _PERMITS)


def packed_record(record: Record) -> tuple[str, bytes, float, str | bool, bool]:
    """Return id, value, end and process of `record`, and whether Celery is to see it.

    The value begins with 1 if its state is terminal.
    """
    head = orjson.dumps((record.state, record.content_type, record.expires, record.reply_to))
    flag = b"1" if record.state in READY_STATES else b"0"
    value = b"%b%b\n%b" % (flag, head, record.body)
    return record.id, value, record.expires, record.reply_to or False, record.content_type == CELERYS


def record_of(task_id: str, value: bytes) -> Record | None:
    """Return the record in a value; None if it is none of ours."""
    head, _, body = value[1:].partition(b"\n")
    try:
        state, content_type, expires, reply_to = orjson.loads(head)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return None
    return Record(task_id, state, body, content_type, expires, reply_to)


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
    )


def _packed_arrival(arrival: Arrival, record: Record | None) -> tuple[str, str, tuple[str, bytes] | bool, bool]:
    if arrival.record is None or arrival.record is record:
        return arrival.join_id, arrival.member, False, arrival.failed
    task_id, value, *_ = packed_record(arrival.record)
    return arrival.join_id, arrival.member, (task_id, value), arrival.failed


def member_of(packed: bytes) -> Record | None:
    """Return the record of a member of a join; None if it is none of ours."""
    try:
        task_id, value = unpack(packed)
        return record_of(task_id.decode(), value)
    except (AttributeError, TypeError, ValueError):
        return None
