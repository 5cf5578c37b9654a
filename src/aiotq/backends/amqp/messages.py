"""Envelopes as RabbitMQ carries them, and what comes back: headers of a transport's own beside Celery's protocol."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

import orjson

from ...core.values import value
from ...exceptions import MalformedMessage
from ...transport.broker import HIGHEST_PRIORITY, LOWEST_PRIORITY, DeadLetter
from ...wire.celery_protocol import from_wire, to_wire
from ...wire.message import Message, pack
from ..shelves import NOTHING, Counts
from .delays import LONGEST_DELAY, highest_digit, ladder_delay, ladder_exchange, ladder_key
from .frames import Delivered, Post
from .properties import pack_properties, properties_of
from .topology import DEAD, TO, class_of, name_of, queue_of

#: Microseconds of wall time: what the message waits for.
_DUE: Final = "aiotq-due"
_RETURNS: Final = "aiotq-returns"
_DEATHS: Final = "aiotq-deaths"
_CHARGES: Final = "aiotq-charges"
#: JSON: what a dead letter says of itself.
_LETTER: Final = "aiotq-dead"
#: Every header a message has while it is under way here; what is sent again has none that RabbitMQ wrote.
_OURS: Final = frozenset({TO, _DUE, _RETURNS, _DEATHS, _CHARGES, _LETTER})
#: Bytes of the properties of what could not be read that are kept with it.
_MOST_HEADERS: Final = 64 * 1024
#: Headers that RabbitMQ changes whenever somebody looks at a message.
_COUNTED: Final = frozenset({"x-delivery-count", "x-acquired-count"})
_PERSISTENT: Final = 2
_DEFAULT_PRIORITY: Final = 4


@value(eq=False)
class Outgoing:
    """A message on its way to `queue` (one of a name's four), by the ladder until about `due`; None: at once."""

    queue: str
    due: float | None
    properties: dict[str, Any]
    body: bytes

    def delay(self, now: float) -> int:
        """Return the milliseconds from `now` on that it spends on the ladder."""
        return 0 if self.due is None else ladder_delay(math.ceil((self.due - now) * 1000))

    def post(self, number: int, now: float) -> Post:
        """Return it as the `number`th that is published on its channel."""
        properties = pack_properties(message_id=str(number), **self.properties)
        if delay := self.delay(now):
            return Post(ladder_exchange(highest_digit(delay)), ladder_key(delay), properties, self.body)
        if self.queue == DEAD:
            return Post(DEAD, "", properties, self.body)
        return Post("", self.queue, properties, self.body)


@value(eq=False)
class Taken:
    """A message that came, and what is known of it. `due` is wall time."""

    message: Message
    priority: int
    counts: Counts
    due: float | None


def outgoing(
    message: Message,
    queue: str,
    priority: int,
    due: float | None,
    now: float,
    counts: Counts = NOTHING,
    *,
    is_flat: bool = False,
) -> Outgoing:
    """Return `message` on its way to `queue`, or the one of its four for `priority` unless it `is_flat`."""
    priority = min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)
    place = queue if is_flat else queue_of(queue, priority)
    wire = to_wire(message)
    headers = wire.headers
    if due is not None and due > now:
        headers[TO] = place
        headers[_DUE] = math.ceil(due * 1_000_000)
    else:
        due = None
    if counts is not NOTHING:
        headers |= {_RETURNS: counts.returns, _DEATHS: counts.deaths, _CHARGES: counts.charges}
    properties = {
        "content_type": wire.content_type,
        "content_encoding": wire.content_encoding,
        "headers": headers,
        "delivery_mode": _PERSISTENT,
        "priority": priority,
        "correlation_id": wire.correlation_id,
        "reply_to": wire.reply_to,
    }
    return Outgoing(place, due, properties, wire.body)


def taken_from(arrival: Delivered, lowest: int | None) -> Taken:
    """Return what came out of the queue whose class begins with the priority `lowest`; None: it has all priorities.

    Raises:
        MalformedMessage: it is no message of a task.
    """
    properties = properties_of(arrival.properties)
    headers: Mapping[str, Any] = properties.get("headers") or {}
    message = _message(properties, headers, arrival)
    again = _whole(headers, "x-delivery-count") or int(arrival.is_redelivered)
    if _OURS.isdisjoint(headers):  # nearly all: it came at once, and for the first time
        return Taken(message, _priority(properties, lowest), Counts(again) if again else NOTHING, message.eta)
    due = _whole(headers, _DUE)
    counts = Counts(_whole(headers, _RETURNS) + again, _whole(headers, _DEATHS), _whole(headers, _CHARGES))
    when = due / 1_000_000 if due else message.eta  # Celery's come at once
    return Taken(message, _priority(properties, lowest), counts, when)


def _message(properties: Mapping[str, Any], headers: Mapping[str, Any], arrival: Delivered) -> Message:
    if not _OURS.isdisjoint(headers):
        headers = {name: given for name, given in headers.items() if name not in _OURS}
    return from_wire(
        properties.get("content_type"),
        properties.get("content_encoding"),
        properties.get("correlation_id"),
        properties.get("reply_to"),
        headers,
        arrival.body,
        len(arrival.properties),
    )


def _whole(headers: Mapping[str, Any], name: str) -> int:
    given = headers.get(name)
    return given if type(given) is int and given > 0 else 0


def _priority(properties: Mapping[str, Any], lowest: int | None) -> int:
    """Return the priority that a message has; Celery's, which names others, have the default of their queue."""
    given = properties.get("priority")
    if isinstance(given, int) and given <= HIGHEST_PRIORITY and lowest in {None, class_of(given)}:
        return given
    return default_of(lowest)


def default_of(lowest: int | None) -> int:
    """Return the priority of what names none in the queue whose class begins with `lowest`."""
    return _DEFAULT_PRIORITY if lowest is None or class_of(_DEFAULT_PRIORITY) == lowest else lowest


def burial(letter: DeadLetter, retention: float, came_with: Mapping[str, Any] | None = None) -> Outgoing:
    """Return `letter` on its way to the dead letters, which keep it for `retention` seconds.

    What could not be read goes there as it came, with the properties that it `came_with`.
    """
    told = [letter.key, letter.queue, letter.priority, letter.reason, letter.detail, letter.died_at, letter.deaths]
    expiration = str(min(round(retention * 1000), LONGEST_DELAY))
    if letter.message is not None:
        whole = outgoing(letter.message, letter.queue, letter.priority, None, 0.0)
        properties, body = whole.properties, whole.body
    else:
        properties, body = dict(came_with or {}), letter.raw
        for name in ("message_id", "expiration", "user_id"):
            properties.pop(name, None)
        given: Mapping[str, Any] = properties.get("headers") or {}
        properties["headers"] = {
            name: each for name, each in given.items() if name not in _OURS and not name.startswith("x-")
        }
        if len(pack_properties(**properties)) > _MOST_HEADERS:
            properties["headers"] = {}
    properties["headers"][_LETTER] = orjson.dumps(told).decode()
    return Outgoing(DEAD, None, properties | {"delivery_mode": _PERSISTENT, "expiration": expiration}, body)


def dead_letter_from(arrival: Delivered, now: float) -> DeadLetter:
    """Return the dead letter that came, ours or one that the broker put there itself; not older than `now`, if it does
    not say when it died.
    """
    try:
        properties = properties_of(arrival.properties)
    except MalformedMessage:
        properties = {}
    headers: Mapping[str, Any] = properties.get("headers") or {}
    message: Message | None
    try:
        message = _message(properties, headers, arrival)
    except MalformedMessage:
        message = None
    raw = pack(message) if message is not None else arrival.body
    try:
        key, queue, priority, reason, detail, died_at, deaths = orjson.loads(headers.get(_LETTER, b""))
        return DeadLetter(key, queue, priority, message, raw, reason, detail, died_at, deaths)
    except (ValueError, TypeError):
        return _by_the_broker(arrival, properties, headers, message, raw, now)


def _by_the_broker(
    arrival: Delivered,
    properties: Mapping[str, Any],
    headers: Mapping[str, Any],
    message: Message | None,
    raw: bytes,
    now: float,
) -> DeadLetter:
    """Return a letter for what the broker itself would not keep: its queue is gone, or a policy said so."""
    deaths: Any = headers.get("x-death")
    first = cast("Mapping[str, Any]", deaths[0] if deaths and isinstance(deaths, list) else {})
    if headers.get(TO):
        place = str(headers[TO])
        reason, detail = "unroutable", f"it was due, and there was no queue {place!r}"
    else:
        place = str(headers.get("x-first-death-queue") or arrival.routing_key)
        reason, detail = str(first.get("reason", "unroutable")), "a limit or a policy of its queue removed it"
    when = first.get("time")
    given = properties.get("priority")
    return DeadLetter(
        _key_of(properties, headers, arrival),
        name_of(place),
        given if isinstance(given, int) and given <= HIGHEST_PRIORITY else _DEFAULT_PRIORITY,
        message,
        raw,
        reason,
        detail,
        when.timestamp() if isinstance(when, datetime) else now,
    )


def _key_of(properties: Mapping[str, Any], headers: Mapping[str, Any], arrival: Delivered) -> str:
    """Return the same key each time that it is looked at, though RabbitMQ counts in its headers how often that was."""
    lasting = {name: each for name, each in headers.items() if name not in _COUNTED}
    packed = pack_properties(**{**properties, "headers": lasting}) if properties else arrival.properties
    return hashlib.sha256(packed + arrival.body).hexdigest()[:32]
