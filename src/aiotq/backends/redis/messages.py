"""How messages look to the scripts in `lua/`, and what those return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...exceptions import MalformedMessage
from ...transport.broker import Acknowledge, DeadLetter, Delivery, GiveUp, HandBack, Settlement
from ...wire.message import Message, unpack
from .envelopes import packed_key
from .fleet import LIBRARY as FLEET_ROWS
from .script import Script


def script(name: str) -> Script:
    """Return a script on queues, with what it includes."""
    return Script(*LIBRARIES, name)


#: What `base` and `messages` want; what other rooms build upon.
LIBRARIES: Final = ("base", "bus", "messages")

SEND: Final = script("send")
SETTLE: Final = script("settle")
FETCH: Final = script("fetch")
CANCEL_FETCH: Final = script("cancel_fetch")
REMOVE_CONSUMER: Final = script("remove_consumer")
RECLAIM: Final = script("reclaim")
RENEW: Final = Script(*LIBRARIES, FLEET_ROWS, "renew")
STATS: Final = script("stats")
PURGE: Final = script("purge")
REPLAY: Final = script("replay")
MAKE_DUE_NOW: Final = script("make_due_now")
DELAYED: Final = script("delayed")
REMOVE_DELAYED: Final = script("remove_delayed")
BURY: Final = script("bury")

#: The streams of what was given back and of suspects; all others are called by their priority.
AGAIN: Final = "a"
SUSPECTS: Final = "s"


def lease_of(queue: str, level: str, entry: str) -> str:
    """Name one holding of one message: the entry it is."""
    return f"{level} {entry} {queue}"


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


def delivery_of(found: Sequence[Any], read_at: float) -> Delivery:
    """Return the delivery in an entry that FETCH returned.

    Raises:
        MalformedMessage: it holds no message; what it holds is for `raw_of`.
    """
    queue, level, entry, fields, deaths, charges = found
    level = level.decode() if isinstance(level, bytes) else str(level)
    queue = queue.decode()
    given = dict(zip(fields[::2], fields[1::2], strict=True))
    if b"m" not in given:
        names = ", ".join(repr(name.decode("utf-8", "replace")[:40]) for name in list(given)[:10])
        raise MalformedMessage(f"the entry has no field 'm', it has {names}")
    message = unpack(given[b"m"])
    is_again = level in {AGAIN, SUSPECTS}
    return Delivery(
        message,
        queue,
        _number(given.get(b"p"), 4) if is_again else int(level),
        lease_of(queue, level, entry.decode()),
        read_at,
        max(deaths, 0),
        max(charges, 0),
        _number(given.get(b"n"), 0) if is_again else 0,
    )


def _number(text: bytes | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def junk_place_of(found: Sequence[Any]) -> tuple[str, str, str, str]:
    """Return where an entry is held whose message can't be read."""
    queue, level, entry, *_ = found
    return queue.decode(), level.decode() if isinstance(level, bytes) else str(level), entry.decode(), ""


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
