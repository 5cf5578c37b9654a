"""The wire form of an invocation: headers, body, limits (P5).

The form is Celery's task message protocol, version 2: what a worker must know before it runs a task is in the
headers, the body is `[args, kwargs, embed]` and is decoded only when the task runs. Stores of ours keep a message
as one packed blob, with every header that has its default left out.

Source: Celery, "Message Protocol", version 2.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Final, cast

import orjson

from ..core.values import shown, value
from ..exceptions import MalformedMessage, Refused

_LENGTH: Final = struct.Struct(">I")
#: Ids and task names are keys in every store; nobody needs longer ones.
MAX_NAME: Final = 255
#: All headers of one message; a body of any size stands behind them.
MAX_HEADERS: Final = 64 * 1024
#: The caller's own headers: what is left when ids and names are as long as they may be.
MAX_USER_HEADERS: Final = 40 * 1024
#: Stamps, and what stands around them.
MAX_STAMPS: Final = 8 * 1024
#: The first second that no `datetime` can name; times on the wire are before it.
END_OF_TIME: Final = 253_402_300_800.0
#: Seconds that a limit may be: ten years; clocks and operating systems refuse to wait for much longer.
LONGEST_LIMIT: Final = 315_360_000.0
_MAX_COUNT: Final = 2**31
#: Calls of one id that are different calls begin with attempts so far apart, from the first of these numbers on (see
#: `attempt_apart`). So many numbers: two calls get the same one hardly ever.
_APART: Final = 1024
_FIRST_APART: Final = 2**20
_NUMBERS: Final = 2**20 - 2**10


@value
class Step:
    """Where a message stands in its workflow. `wait` and `lifetime` are seconds from the end of what it awaits."""

    group_id: str | None = None
    group_index: int | None = None
    join: str | None = None  #: the join that it, or the last of the chain it carries, arrives at ...
    members: tuple[str, ...] = ()  #: ... as these
    ends: tuple[str, ...] = ()  #: the last tasks of the chain it carries: who is told when that can't be read
    awaits: str | None = None  #: the join whose records are its first argument
    immutable: bool = False  #: it takes no argument from what it awaits
    wait: float | None = None  #: until it starts
    lifetime: float | None = None  #: in which it may start
    is_gated: bool = False  #: its join is a gate, behind which its chain goes on ...
    chord: tuple[str, ...] = ()  #: ... to arrive at this join as this member

    @property
    def chord_member(self) -> tuple[str, str] | None:
        """The join of its chord, and its number among the members; None if it is in no chord's header."""
        if self.is_gated:
            return (self.chord[0], self.chord[1]) if self.chord else None
        return (self.join, self.members[0]) if self.join is not None and self.members else None


@value
class Message:
    """One call of one task, as it travels. Times are seconds since the epoch (UTC), limits are seconds."""

    id: str
    task: str
    body: bytes
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    reply_to: str | None = None
    sent_at: float | None = None
    eta: float | None = None
    expires: float | None = None
    root_id: str | None = None  #: None: this message is the root
    parent_id: str | None = None
    retries: int = 0
    attempt: int = 0  #: retries, snoozes and replacements: the same id with a higher attempt is no duplicate
    soft_time_limit: float | None = None
    time_limit: float | None = None
    ignore_result: bool = False
    shadow: str | None = None
    origin: str | None = None
    headers: Mapping[str, Any] | None = None  #: the caller's own
    compression: str | None = None  #: the content type of what `body` is compressed as
    signature: str | None = None
    losses: int = 0  #: child processes that died with it
    step: Step | None = None  #: where it stands in its workflow
    address: tuple[str, str] | None = None  #: the exchange and the routing key it was called with, if it was so
    stamps: Mapping[str, Sequence[Any]] | None = None  #: labels of it, each with its values
    replacements: int = 0  #: how often it stands for a call that it replaced

    @property
    def key(self) -> tuple[str, int]:
        """What makes two messages the same one."""
        return self.id, self.attempt

    @property
    def runs_before(self) -> int:
        """How often this call was retried, snoozed or replaced."""
        return self.attempt if self.attempt < _FIRST_APART else self.attempt % _APART


def attempt_apart() -> int:
    """Return an attempt for a call to begin at whose id another call has or had: brokers and claims tell them apart."""
    return _FIRST_APART + _APART * (int.from_bytes(os.urandom(4), "big") % _NUMBERS)


def is_name(given: object) -> bool:
    """Whether `given` can name a task, a queue or a call: it stands in keys, and in one line of a log."""
    return isinstance(given, str) and 0 < len(given) <= MAX_NAME and given.isprintable()


def _is_time(given: float) -> bool:
    return 0 <= given < END_OF_TIME


def _is_count(given: int) -> bool:
    return 0 <= given < _MAX_COUNT


def _are_names(given: Sequence[object]) -> bool:
    return all(map(is_name, given))


def _name_a_member(given: Sequence[object]) -> bool:
    return len(given) in {0, 2} and _are_names(given)


def _is_address(given: Sequence[object]) -> bool:
    return len(given) == 2 and all(isinstance(each, str) and len(each) <= MAX_NAME for each in given)


def _are_stamps(given: Mapping[Any, object]) -> bool:
    return all(is_name(name) and isinstance(values, list) for name, values in given.items())


def _is_limit(given: float) -> bool:
    return 0 < given <= LONGEST_LIMIT


#: What a header may be: the accepted types, the default, what else must hold.
_Rule = tuple[tuple[type, ...], object, Callable[[Any], bool] | None]
#: By name: everything that `pack` writes and `unpack` believes.
_OPTIONAL: Final[dict[str, _Rule]] = {
    "content_type": ((str,), "application/json", None),
    "content_encoding": ((str,), "utf-8", None),
    "reply_to": ((str,), None, None),
    "sent_at": ((float, int), None, _is_time),
    "eta": ((float, int), None, _is_time),
    "expires": ((float, int), None, _is_time),
    "root_id": ((str,), None, None),
    "parent_id": ((str,), None, None),
    "retries": ((int,), 0, _is_count),
    "attempt": ((int,), 0, _is_count),
    "soft_time_limit": ((float, int), None, _is_limit),
    "time_limit": ((float, int), None, _is_limit),
    "ignore_result": ((bool,), False, None),
    "shadow": ((str,), None, is_name),
    "origin": ((str,), None, None),
    "headers": ((dict,), None, None),
    "compression": ((str,), None, None),
    "signature": ((str,), None, None),
    "losses": ((int,), 0, _is_count),
    "step": ((dict, Step), None, None),
    "address": ((list, tuple), None, _is_address),
    "stamps": ((dict,), None, _are_stamps),
    "replacements": ((int,), 0, _is_count),
}
#: The same for what stands in the header `step`.
_OF_STEP: Final[dict[str, _Rule]] = {
    "group_id": ((str,), None, is_name),
    "group_index": ((int,), None, _is_count),
    "join": ((str,), None, is_name),
    "members": ((list, tuple), (), _are_names),
    "ends": ((list, tuple), (), _are_names),
    "awaits": ((str,), None, is_name),
    "immutable": ((bool,), False, None),
    "wait": ((float, int), None, _is_time),
    "lifetime": ((float, int), None, _is_time),
    "is_gated": ((bool,), False, None),
    "chord": ((list, tuple), (), _name_a_member),
}
_DEFAULTS: Final = tuple((name, default) for name, (_, default, _) in _OPTIONAL.items())
_REQUIRED: Final[dict[str, _Rule]] = {"id": ((str,), None, is_name), "task": ((str,), None, is_name)}
_FIELDS: Final = tuple(each.name for each in fields(Message))
#: Of all headers of a message: the accepted types, what else must hold, the place of its field.
_RULES: Final = {
    name: (types, is_possible, _FIELDS.index(name))
    for name, (types, _, is_possible) in {**_REQUIRED, **_OPTIONAL}.items()
}
_ID, _TASK, _BODY, _STEP, _ADDRESS = map(_FIELDS.index, ("id", "task", "body", "step", "address"))
#: The fields of a message that says nothing.
_BLANK: Final[list[Any]] = [None if each.default is MISSING else each.default for each in fields(Message)]


def pack(message: Message) -> bytes:
    """Return `message` as one blob: 4 bytes of length, the headers as JSON, the body.

    Raises:
        Refused: a header has no form in JSON, or `unpack` would not read so many.
    """
    headers: dict[str, Any] = {"id": message.id, "task": message.task}
    for name, default in _DEFAULTS:
        given = getattr(message, name)
        if given is not default and given != default:
            headers[name] = given if name != "step" else _without_defaults(given)
    try:
        head = orjson.dumps(headers)
    except TypeError as exc:
        raise Refused(f"message {message.id}: a header can't be sent: {exc}", "unencodable") from exc
    if len(head) > MAX_HEADERS:
        text = f"message {message.id}: its headers are {len(head)} bytes, over the limit of {MAX_HEADERS}"
        raise Refused(text, "too_large")
    return _LENGTH.pack(len(head)) + head + message.body


def _without_defaults(step: Step) -> dict[str, Any]:
    return {name: given for name, (_, default, _) in _OF_STEP.items() if (given := getattr(step, name)) != default}


def unpack(data: bytes) -> Message:
    """Return the message in `data`.

    Raises:
        MalformedMessage: not a packed message; the text says what is wrong with it.
    """
    if len(data) < _LENGTH.size:
        raise MalformedMessage(f"message of {len(data)} bytes: shorter than its length field")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if length > MAX_HEADERS or start > len(data):
        raise MalformedMessage(f"header length {length}: over the limit of {MAX_HEADERS} or beyond the message's end")
    try:
        headers: object = orjson.loads(data[_LENGTH.size : start])
    except orjson.JSONDecodeError as exc:
        raise MalformedMessage(f"headers are not JSON: {exc}") from exc
    if not isinstance(headers, dict):
        raise MalformedMessage(f"headers are a {type(headers).__name__}, not an object")
    return from_headers(cast("dict[str, Any]", headers), data[start:])


def from_headers(headers: dict[str, Any], body: bytes) -> Message:
    """Return a message from our own header names; headers that are not ours are refused."""
    found = _BLANK.copy()
    # Neither a function for each header, nor fields by name: either would double the time that a message takes.
    for name, given in headers.items():
        rule = _RULES.get(name)
        if rule is None or type(given) not in rule[0] or (rule[1] is not None and not rule[1](given)):
            raise _wrong(name, given, rule)
        found[rule[2]] = given
    if found[_ID] is None or found[_TASK] is None:
        raise _wrong("id" if found[_ID] is None else "task", None)
    found[_BODY] = body
    if found[_ADDRESS] is not None:
        found[_ADDRESS] = tuple(found[_ADDRESS])
    if isinstance(found[_STEP], dict):
        found[_STEP] = _step(cast("dict[str, Any]", found[_STEP]))
    return Message(*found)


def _step(given: dict[str, Any]) -> Step:
    for name, each in given.items():
        rule = _OF_STEP.get(name)
        if rule is None or type(each) not in rule[0] or (rule[2] is not None and not rule[2](each)):
            raise _wrong(name, each, rule)
    found: dict[str, Any] = {
        name: tuple(cast("list[str]", each)) if isinstance(each, list) else each for name, each in given.items()
    }
    return Step(**found)


def _wrong(name: str, given: object, rule: tuple[tuple[type, ...], object, object] | None = None) -> MalformedMessage:
    """Return the error of a header that can't be `given`."""
    if name in _REQUIRED:
        return MalformedMessage(f"header {name!r} must be a string of 1 to {MAX_NAME} printable characters")
    if rule is None:
        return MalformedMessage(f"unknown header {name[:MAX_NAME]!r}")
    if type(given) not in rule[0]:
        return MalformedMessage(f"header {name!r} is a {type(given).__name__}")
    return MalformedMessage(f"header {name!r} can't be {shown(given)}")


@value
class Envelope:
    """A message and where it goes. `due` is wall time; None or a time past means now."""

    message: Message
    queue: str
    priority: int = 4
    due: float | None = None


def pack_envelope(envelope: Envelope) -> bytes:
    """Return `envelope` as one blob, as joins and claims keep what is to be sent."""
    head = orjson.dumps([envelope.queue, envelope.priority, envelope.due])
    return _LENGTH.pack(len(head)) + head + pack(envelope.message)


def unpack_envelope(data: bytes) -> Envelope:
    """Return the envelope in `data`.

    Raises:
        MalformedMessage: it is not a packed envelope.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        queue, priority, due = orjson.loads(data[_LENGTH.size : start])
    except (struct.error, ValueError, TypeError) as exc:
        raise MalformedMessage(f"not a packed envelope: {exc}") from exc
    if not (isinstance(queue, str) and isinstance(priority, int) and isinstance(due, (float, int, type(None)))):
        raise MalformedMessage("not a packed envelope: queue, priority or due time is of the wrong type")
    return Envelope(unpack(data[start:]), queue, priority, due)


#: Random digits for ids to come: the system is asked for those of many at once.
_digits: list[str] = []
_DIGITS: Final = 18
_IDS_AT_ONCE: Final = 128
if hasattr(os, "register_at_fork"):  # or parent and child would make the same ids
    os.register_at_fork(after_in_child=_digits.clear)


def new_id() -> str:
    """Return a new UUID as text, of version 7: ids made one after another stand side by side in a store's index.

    Random ones (version 4) spread over all of it, which halves the rate of commits on SQLite. Source: RFC 9562, 5.7.
    """
    try:
        digits = _digits.pop()
    except IndexError:
        many = os.urandom(_IDS_AT_ONCE * _DIGITS // 2).hex()
        _digits.extend(many[start : start + _DIGITS] for start in range(_DIGITS, len(many), _DIGITS))
        digits = many[:_DIGITS]
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{digits[:3]}-a{digits[3:6]}-{digits[6:]}"
