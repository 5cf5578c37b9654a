"""How records, joins and envelopes look to the scripts in `lua/`, and what those return."""

from __future__ import annotations

from typing import Final

import orjson

from .._redis import PackedEnvelope, Script, packed_envelopes
from ..states import READY_STATES
from .base import Arrival, Join, Record


def script(name: str) -> Script:
    """Return a script on results, with what it includes."""
    return Script(("aiotq._redis", "base"), ("aiotq.results", "results"), ("aiotq.results", name))


#: What other rooms build upon, beside `base`.
LIBRARY: Final = ("aiotq.results", "results")

PUT: Final = script("put")
FORGET: Final = script("forget")
WATCH: Final = script("watch")
REVOKE: Final = script("revoke")
REVOKED: Final = script("revoked")
CLAIM: Final = script("claim")
RENEW_CLAIMS: Final = script("renew_claims")
CLOSE: Final = script("close")
OPEN_JOINS: Final = script("open_joins")
BOOK: Final = script("book")


def packed_record(record: Record) -> tuple[str, bytes, float, str | bool]:
    """Return id, value, end and process of `record`; the value begins with 1 if its state is terminal."""
    head = orjson.dumps((record.state, record.content_type, record.expires, record.reply_to))
    flag = b"1" if record.state in READY_STATES else b"0"
    return record.id, b"%b%b\n%b" % (flag, head, record.body), record.expires, record.reply_to or False


def record_of(task_id: str, value: bytes) -> Record | None:
    """Return the record in a value; None if it is none of ours."""
    head, _, body = value[1:].partition(b"\n")
    try:
        state, content_type, expires, reply_to = orjson.loads(head)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return None
    return Record(task_id, state, body, content_type, expires, reply_to)


def packed_join(join: Join) -> tuple[str, int, list[PackedEnvelope], list[PackedEnvelope], float]:
    return join.id, join.size, packed_envelopes(join.then), packed_envelopes(join.otherwise), join.expires


def packed_arrival(arrival: Arrival) -> tuple[str, int, bool]:
    return arrival.join_id, arrival.index, arrival.failed
