"""How messages look to the scripts in `lua/`, and what those return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ...core.values import value
from ...exceptions import MalformedMessage
from ...transport.broker import Acknowledge, DeadLetter, Delivery, GiveUp, HandBack, Settlement
from ...wire.message import Message, unpack
from .envelopes import packed_key
from .fleet import LIBRARY as FLEET_ROWS
from .script import Script


def script(name: str) -> Script:
    """Return a script on queues, with what it includes."""
    return Script(*LIBRARIES, name, late={"lanes"})


#: What `messages` wants, and it; what other rooms build upon.
LIBRARIES: Final = ("base", "bus", "queues", "lanes", "messages")

SEND: Final = Script(*LIBRARIES, "send", late={"lanes", "messages"})
SETTLE: Final = script("settle")
FETCH: Final = Script(*LIBRARIES, "fetch", late={"lanes", "messages"})
CANCEL_FETCH: Final = script("cancel_fetch")
REMOVE_CONSUMER: Final = script("remove_consumer")
RECLAIM: Final = script("reclaim")
RENEW: Final = Script(*LIBRARIES, FLEET_ROWS, "renew", late={"lanes"})
STATS: Final = script("stats")
PURGE: Final = script("purge")
REPLAY: Final = script("replay")
MAKE_DUE_NOW: Final = script("make_due_now")
DELAYED: Final = script("delayed")
READY: Final = script("ready")
REMOVE_DELAYED: Final = script("remove_delayed")
BURY: Final = script("bury")

#: The level of what was taken out of a lane: an entry says its priority.
OUT_OF_LANES: Final = "f"
#: Parts of an entry with a message and nothing else. Those that were given back, and suspects, have more.
_PLAIN: Final = 2
#: The same of what was taken out of a lane: its priority and since when it was ready.
_OUT_OF_LANES: Final = 6


@value
class Junk:
    """An entry that holds no message: where it is held, as scripts read it, and why it can't be read."""

    place: tuple[str, str, str, str]
    why: str


def place_of(delivery: Delivery) -> tuple[str, str, str, str]:
    """Return where `delivery` is held, as scripts read it: queue, level, entry, id of the message."""
    level, entry, queue = str(delivery.lease).split(" ", 2)
    return queue, level, entry, packed_key(delivery.message.key)


def packed_settlement(settlement: Settlement) -> tuple[str, str | bool, str | float | bool]:
    """Return kind, reason and detail of `settlement` as scripts read them."""
    match settlement:
        case Acknowledge():
            return "a", False, False
        case HandBack(delay):
            return "h", False, delay * 1000
        case GiveUp(reason, detail):
            return "g", reason, detail


def deliveries_of(read: Sequence[Any], read_at: float) -> Iterator[Delivery | Junk]:
    """Yield the deliveries in one read of a stream that FETCH returned, and what is in place of one."""
    queue_name, level_name, entries, deaths = read
    queue = str(queue_name, "utf-8")
    level = level_name.decode() if isinstance(level_name, bytes) else str(level_name)
    priority = None if deaths or level == OUT_OF_LANES else int(level)
    for place, (entry, fields) in enumerate(entries):
        lease = f"{level} {entry.decode()} {queue}"
        try:
            if priority is not None and len(fields) == _PLAIN and fields[0] == b"m":
                yield Delivery(unpack(fields[1]), queue, priority, lease, read_at)
            elif level == OUT_OF_LANES and len(fields) == _OUT_OF_LANES and fields[0] == b"m":
                yield Delivery(unpack(fields[1]), queue, _number(fields[3], 4), lease, read_at)
            else:
                yield _delivery(fields, queue, priority, lease, read_at, *(deaths[place] if deaths else (0, 0)))
        except MalformedMessage as exc:
            yield Junk((queue, level, entry.decode(), ""), str(exc))


def _delivery(
    fields: Sequence[bytes], queue: str, priority: int | None, lease: str, read_at: float, deaths: int, charges: int
) -> Delivery:
    given = dict(zip(fields[::2], fields[1::2], strict=True))
    if b"m" not in given:
        names = ", ".join(repr(name.decode("utf-8", "replace")[:40]) for name in list(given)[:10])
        raise MalformedMessage(f"the entry has no field 'm', it has {names}")
    message = unpack(given[b"m"])
    if priority is not None:
        return Delivery(message, queue, priority, lease, read_at)
    priority, returns = _number(given.get(b"p"), 4), _number(given.get(b"n"), 0)
    return Delivery(message, queue, priority, lease, read_at, max(deaths, 0), max(charges, 0), returns)


def _number(text: bytes | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def dead_letter_of(queue: str, entry: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """Return the dead letter in an entry of a queue's `dead` stream."""
    given = dict(zip(fields[::2], fields[1::2], strict=True))
    raw = given.get(b"m", b"")
    number = entry.decode()
    message: Message | None
    try:
        message = unpack(raw)
    except MalformedMessage:
        message = None
    return DeadLetter(
        key=f"{number}@{queue}",
        queue=queue,
        priority=_number(given.get(b"p"), 4),
        message=message,
        raw=raw,
        reason=given.get(b"r", b"").decode("utf-8", "replace"),
        detail=given.get(b"d", b"").decode("utf-8", "replace"),
        died_at=int(number.partition("-")[0]) / 1000,
        deaths=_number(given.get(b"n"), 0),
    )
