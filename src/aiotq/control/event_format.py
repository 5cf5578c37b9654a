"""Events as messages on the bus: batches of what one process saw, in Celery's format once they are read (P10).

A batch is a head as one line of JSON, signed where calls are, and a list. What all its events have in common stands in
the head; a call that ended is one row there, of which whoever reads makes the events of its whole life.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

import orjson

from ..core.values import sendable, value
from ..exceptions import MalformedMessage
from ..wire.message import is_name, new_id
from ..wire.signing import Signer
from .bus import MAX_PAYLOAD
from .messages import seal, unseal

#: The topics of events, of who wants them (`pack_wish`), and of the question who does.
EVENTS: Final = "events"
WISHES: Final = "events.wanted"
QUESTION: Final = "events.who"

Event = Mapping[str, Any]

#: The form of what is sent; one that can't be read as this one was has another number.
_VERSION: Final = 1
#: Bytes of the list in a batch: the head needs some, and a signature.
_MOST_BYTES: Final = MAX_PAYLOAD - 4096
#: Items that are encoded together, at first.
_AT_ONCE: Final = 256
#: Letters of a traceback in an event, and of any other text.
MOST_TRACEBACK: Final = 8_000
MOST_TEXT: Final = 1_024
#: What tells that events were left out, and how many.
DROPPED: Final = "events-dropped"
_LONGEST_WISH: Final = 3_600.0


class Ended(NamedTuple):
    """The fields of a row, which is a plain tuple of them: a call that ended.

    Times are those of `time.perf_counter` in its process; None: that was told before, or did not happen. `more` are the
    fields of the last event alone.
    """

    ending: str  #: `succeeded` and so on: the last event is `task-` with it
    uuid: str
    name: str
    args: str | None
    kwargs: str | None
    root_id: str | None
    parent_id: str | None
    retries: int
    eta: float | None  #: wall times, these two
    expires: float | None
    received: float | None
    started: float | None
    ended: float
    more: Mapping[str, Any]


#: What stands in a batch: a row (`Ended`), or an event without what all have in common.
Row = tuple[Any, ...]
Item = Row | Event


@value
class Common:
    """What the events of one process have in common."""

    hostname: str
    pid: int
    utcoffset: int  #: hours west of Greenwich, as Celery says it

    @classmethod
    def here(cls, hostname: str) -> Common:
        """Return it for this process, called `hostname`."""
        is_summer = time.localtime().tm_isdst > 0
        return cls(hostname, os.getpid(), (time.altzone if is_summer else time.timezone) // 3600)


@value
class Wish:
    """Whoever listens at `address` wants events for so many seconds.

    Those that do not `ask` take what is sent anyway, and have nobody begin.
    """

    address: str
    seconds: float
    asks: bool


def pack_events(
    items: Sequence[Item], common: Common, *, epoch: float, clock: int, signer: Signer | None
) -> Iterator[tuple[bytes, int]]:
    """Yield messages with `items`, and the number of items in each; those that can't be sent are left out.

    `epoch` is the wall time at which `perf_counter` was 0, `clock` the logical time of the first event.
    """
    for body, taken in _bodies(items, _AT_ONCE):
        head = {
            "id": new_id(),
            "v": _VERSION,
            "hostname": common.hostname,
            "pid": common.pid,
            "utcoffset": common.utcoffset,
            "clock": clock,
            "epoch": epoch,
            "count": taken,
        }
        clock += 3 * taken
        yield seal(signer, EVENTS, head, body), taken


def unpack_events(data: bytes, signer: Signer | None) -> list[dict[str, Any]]:
    """Return the events in `data`, in the order of their times.

    Raises:
        MalformedMessage: it is none, or of a version that this one can't read.
        Unsigned, BadSignature: events are to be signed, and these are not, or were changed.
    """
    head, body = unseal(signer, EVENTS, data)
    if head.get("v") != _VERSION:
        raise MalformedMessage(f"events of version {head.get('v')!r}, and this is version {_VERSION}")
    hostname, pid, offset = head.get("hostname"), head.get("pid"), head.get("utcoffset")
    clock, epoch = head.get("clock"), head.get("epoch")
    if not (is_name(hostname) and isinstance(clock, int) and isinstance(epoch, (int, float))):
        raise MalformedMessage("a batch of events names its process and its time")
    common = {"hostname": hostname, "pid": pid, "utcoffset": offset}
    events: list[dict[str, Any]] = []
    for item in _listed(body):
        if isinstance(item, list):
            events.extend(_life(cast("list[Any]", item), common, epoch))
        elif isinstance(item, dict):
            events.append(_checked({**common, **cast("dict[str, Any]", item)}))
    events.sort(key=lambda each: each["timestamp"])
    for number, event in enumerate(events):
        event["clock"] = clock + number
    return events


def expanded(items: Sequence[Item], common: Common, *, epoch: float, clock: int) -> list[dict[str, Any]]:
    """Return the events that `items` stand for, as whoever reads a batch has them."""
    shared = {"hostname": common.hostname, "pid": common.pid, "utcoffset": common.utcoffset}
    events: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, tuple):
            events.extend(_life(item, shared, epoch))
        else:
            events.append({**shared, **item})
    events.sort(key=lambda each: each["timestamp"])
    for number, event in enumerate(events):
        event["clock"] = clock + number
    return events


def count_in(data: bytes) -> int:
    """Return how many items a batch says it has; it is not read, and may lie."""
    try:
        head: Any = orjson.loads(data.partition(b"\n")[0])
        return max(int(head["count"]), 1)
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return 1


def pack_wish(wish: Wish, signer: Signer | None) -> bytes:
    """Return `wish` as a message on the bus."""
    head = {"id": new_id(), "address": wish.address, "seconds": wish.seconds, "asks": wish.asks}
    return seal(signer, WISHES, head, b"")


def unpack_wish(data: bytes, signer: Signer | None) -> Wish:
    """Return the wish in `data`; raises as `unpack_events`."""
    head, _ = unseal(signer, WISHES, data)
    address, seconds, asks = head.get("address"), head.get("seconds"), head.get("asks")
    if not (is_name(address) and isinstance(seconds, (int, float)) and 0 <= seconds <= _LONGEST_WISH):
        raise MalformedMessage("who wants events says where, and for how long")
    return Wish(cast("str", address), float(seconds), asks is True)


def pack_question(address: str, signer: Signer | None) -> bytes:
    """Return the question of the process at `address`: who wants events?"""
    return seal(signer, QUESTION, {"id": new_id(), "address": address}, b"")


def unpack_question(data: bytes, signer: Signer | None) -> str:
    """Return the address of who asks; raises as `unpack_events`."""
    head, _ = unseal(signer, QUESTION, data)
    if not is_name(address := head.get("address")):
        raise MalformedMessage("who asks says where he listens")
    return cast("str", address)


def iso(wall: float | None) -> str | None:
    """Return a wall time as Celery's events have it."""
    return None if wall is None else datetime.fromtimestamp(wall, UTC).isoformat()


def _bodies(items: Sequence[Item], at_once: int) -> Iterator[tuple[bytes, int]]:
    """Yield lists as JSON that fit into a message, each with the number of its items."""
    for start in range(0, len(items), at_once):
        group = items[start : start + at_once]
        try:
            body = orjson.dumps(group)
        except TypeError:  # a text that is no Unicode
            body = b""
        if body and len(body) <= _MOST_BYTES:
            yield body, len(group)
        elif len(group) > 1:
            yield from _bodies(group, (len(group) + 1) // 2)
        elif not body and (sent := _in_unicode(group[0])) != group[0]:
            yield from _bodies([sent], 1)


def _in_unicode(item: Item) -> Item:
    """Return `item` with texts that can be sent."""
    if isinstance(item, tuple):
        *fields, more = item
        return (*map(_as_unicode, fields), _texts_in_unicode(more))
    return _texts_in_unicode(item)


def _texts_in_unicode(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {_as_unicode(name): _as_unicode(given) for name, given in fields.items()}


def _as_unicode(given: Any) -> Any:
    return sendable(given, MOST_TRACEBACK) if isinstance(given, str) else given


def _listed(body: bytes) -> list[Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedMessage(f"events that are no JSON: {exc}") from exc
    if not isinstance(found, list):
        raise MalformedMessage("events are a list")
    return cast("list[Any]", found)


def _life(row: Sequence[Any], common: Mapping[str, Any], epoch: float) -> Iterator[dict[str, Any]]:
    """Yield the events of a call that ended; a version to come may have more behind."""
    try:
        ended = Ended._make(row[: len(Ended._fields)])
        times = [None if at is None else round(epoch + at, 6) for at in (ended.received, ended.started, ended.ended)]
        eta, expires = iso(ended.eta), iso(ended.expires)
    except (TypeError, ValueError, OverflowError, OSError) as exc:
        raise MalformedMessage(f"no row of a call: {exc}") from exc
    received, started, at = times
    uuid = ended.uuid
    if received is not None:
        yield _checked(
            {
                **common,
                "type": "task-received",
                "timestamp": received,
                "uuid": uuid,
                "name": ended.name,
                "args": ended.args,
                "kwargs": ended.kwargs,
                "root_id": ended.root_id,
                "parent_id": ended.parent_id,
                "retries": ended.retries,
                "eta": eta,
                "expires": expires,
            }
        )
    if started is not None:
        yield _checked({**common, "type": "task-started", "timestamp": started, "uuid": uuid})
    if not isinstance(cast(object, ended.more), dict):
        raise MalformedMessage("no row of a call: its last field is no object")
    yield _checked({**common, **ended.more, "type": f"task-{ended.ending}", "timestamp": at, "uuid": uuid})


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event if it has what every event has.

    Raises:
        MalformedMessage: it has not.
    """
    kind, timestamp = event.get("type"), event.get("timestamp")
    if not (is_name(kind) and isinstance(timestamp, (int, float)) and is_name(event.get("hostname"))):
        raise MalformedMessage("an event has a type, a time, and a process that it comes from")
    if cast("str", kind).startswith("task-") and not is_name(event.get("uuid")):
        raise MalformedMessage("an event of a call names it")
    return event
