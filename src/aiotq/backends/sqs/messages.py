"""Messages as SQS carries them: text, of which the first line is ours and the others are the headers and the body.

SQS takes no control characters. What is not text of the characters it takes stands there as base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import struct
from collections.abc import Mapping
from typing import Any, Final, TypeGuard, cast

import orjson

from ...core.values import value
from ...exceptions import MalformedMessage, Refused
from ...results.keys import HEADER
from ...transport.broker import HIGHEST_PRIORITY, LOWEST_PRIORITY, DeadLetter
from ...wire.message import Message, pack, unpack
from ..shelves import Counts

#: Bytes of a message, and of all in one request.
LARGEST: Final = 256 * 1024
#: What is left of it for what a dead letter says of itself.
_OF_A_LETTER: Final = 1024
#: The caller's header that names a message's group on a FIFO queue.
GROUP: Final = "message_group"
#: What a group may be called. Source: Amazon SQS, "SendMessage".
_GROUP: Final = re.compile(r"[a-zA-Z0-9!-/:-@\[-`{-~]{1,128}")
#: The characters that SQS takes, without the carriage return, which not all of its clients keep.
_TEXT: Final = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
_LENGTH: Final = struct.Struct(">I")
_DEFAULT_PRIORITY: Final = 4


@value(eq=False)
class Taken:
    """A message that came, and what is known of it. `due` is wall time."""

    message: Message
    priority: int
    counts: Counts
    due: float | None


@value(eq=False)
class Unreadable:
    """What is no message of a task, and why."""

    raw: bytes
    why: str


def written(message: Message, priority: int, due: float | None = None, returns: int = 0) -> str:
    """Return `message` as text.

    Raises:
        Refused: it can't be sent, or is too large.
    """
    said: dict[str, Any] = {"priority": priority}
    if due is not None:
        said["due"] = due
    if returns:
        said["returns"] = returns
    text = _text(said, _lines(message))
    if (size := len(text.encode())) > LARGEST - _OF_A_LETTER:
        raise Refused(
            f"message {message.id} of task {message.task} has {size} bytes as SQS carries it, over the limit of "
            f"{LARGEST - _OF_A_LETTER}: send less (the name of a file, a key), or compress it",
            "too_large",
        )
    return text


def _lines(message: Message) -> bytes:
    """Return the headers and the body of `message`, a line end between them."""
    packed = pack(message)
    (length,) = _LENGTH.unpack_from(packed)
    return packed[_LENGTH.size : _LENGTH.size + length] + b"\n" + packed[_LENGTH.size + length :]


def _text(said: Mapping[str, Any], rest: bytes) -> str:
    try:
        text = rest.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if not _TEXT.fullmatch(text):
        said, text = {**said, "base64": True}, base64.b64encode(rest).decode()
    return f"{json.dumps(said)}\n{text}"


def _apart(text: str) -> tuple[Mapping[str, Any], bytes]:
    """Return the first line of a message, and what stands below it; without a first line of ours all of it."""
    first, _, rest = text.partition("\n")
    try:
        said: object = orjson.loads(first)
        if isinstance(said, dict):
            found = cast("dict[str, Any]", said)
            return found, base64.b64decode(rest, validate=True) if found.get("base64") is True else rest.encode()
    except (orjson.JSONDecodeError, binascii.Error, ValueError):
        pass
    return {}, text.encode()


def _message(lines: bytes) -> Message:
    head, _, body = lines.partition(b"\n")
    return unpack(_LENGTH.pack(len(head)) + head + body)


def taken_from(text: str, count: int) -> Taken | Unreadable:
    """Return the message in `text`, which came for the `count`th time."""
    said, rest = _apart(text)
    try:
        message = _message(rest)
    except MalformedMessage as exc:
        return Unreadable(rest, str(exc))
    priority, due, returns = said.get("priority"), said.get("due"), said.get("returns")
    return Taken(
        message,
        priority if _is_priority(priority) else _DEFAULT_PRIORITY,
        Counts((returns if type(returns) is int and returns > 0 else 0) + max(count - 1, 0)),
        float(due) if isinstance(due, (float, int)) else None,
    )


def _is_priority(given: object) -> TypeGuard[int]:
    return type(given) is int and LOWEST_PRIORITY <= given <= HIGHEST_PRIORITY


def letter_text(letter: DeadLetter) -> str:
    """Return a dead letter as text. What is said of it is shortened to what there is room for."""
    rest = _lines(letter.message) if letter.message is not None else letter.raw
    detail = letter.detail
    while True:
        told = [letter.key, letter.queue, letter.priority, letter.reason, detail, letter.died_at, letter.deaths]
        text = _text({"dead": told, "whole": letter.message is not None}, rest)
        if len(text.encode()) <= LARGEST:
            return text
        if detail:
            detail = detail[: len(detail) // 2]
        else:  # it could not be read, and is as large as SQS allows
            rest = rest[: LARGEST // 2]


def letter_from(text: str, queue: str, now: float) -> DeadLetter:
    """Return the dead letter in `text`; what is none of ours was put there by somebody else."""
    said, rest = _apart(text)
    message: Message | None = None
    try:
        if said.get("whole", True):
            message = _message(rest)
    except MalformedMessage:
        pass
    raw = pack(message) if message is not None else rest
    try:
        key, queue, priority, reason, detail, died_at, deaths = said["dead"]
        return DeadLetter(key, queue, priority, message, raw, reason, detail, died_at, deaths)
    except (KeyError, ValueError, TypeError):
        key = message.id if message is not None else binascii.crc32(raw).to_bytes(4).hex()
        return DeadLetter(key, queue, _DEFAULT_PRIORITY, message, raw, "unknown", "it was put there by hand", now)


def group_of(message: Message) -> str:
    """Return the group of `message` on a FIFO queue: what its caller says, the key it has, or one of its own."""
    headers = message.headers or {}
    given = headers.get(GROUP)
    if given is None and isinstance(key := headers.get(HEADER), (list, tuple)) and key:
        given = cast("Any", key)[0]
    if given is None:
        given = message.id
    text = str(given)
    return text if _GROUP.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()
