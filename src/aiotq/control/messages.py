"""Commands and answers as messages on the bus: a head as one line of JSON, signed where calls are, and a body (P10).

What can't be read is `MalformedMessage`, what is not signed as it must be `Unsigned` or `BadSignature`: whoever hears
it counts it and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, cast

import orjson

from ..core.values import replace, value
from ..exceptions import BadSignature, CallError, MalformedMessage
from ..wire.message import Message, is_name
from ..wire.signing import Signer
from .bus import MAX_PAYLOAD

#: The topics of commands, and of what is answered.
COMMANDS: Final = "control"
ANSWERS: Final = "control.answer"

#: Seconds after which a command is not obeyed any more: it was held up, or recorded and sent again.
STALE: Final = 300.0
#: Bytes of an answer in one message, and of all its parts.
_PART: Final = MAX_PAYLOAD - 4096
MAX_ANSWER: Final = 4 * 1024 * 1024
_MOST_PARTS: Final = MAX_ANSWER // _PART + 1
_MOST_DESTINATIONS: Final = 500


@value
class Command:
    """A request to workers, sent at wall time `sent_at`; `destination` names them, with globs (None: all)."""

    id: str
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    destination: Sequence[str] | None
    reply_to: str | None
    sent_at: float


@value
class AnswerPart:
    """A part of what one worker answers: `key` is of its row in the registry, `data` a piece of JSON."""

    command_id: str
    worker: str
    key: str
    is_error: bool
    number: int
    count: int
    data: bytes


def is_meant(name: str, destination: Sequence[str] | None) -> bool:
    """Whether the worker called `name` is among those that `destination` names."""
    return destination is None or any(fnmatchcase(name, pattern) for pattern in destination)


def pack_command(command: Command, signer: Signer | None) -> bytes:
    """Return `command` as a message on the bus.

    Raises:
        CallError: an argument has no form in JSON, or it is too large.
    """
    given = {
        "name": command.name,
        "args": list(command.args),
        "kwargs": dict(command.kwargs),
        "destination": None if command.destination is None else list(command.destination),
        "reply_to": command.reply_to,
        "sent_at": command.sent_at,
    }
    try:
        body = orjson.dumps(given)
    except TypeError as exc:
        raise CallError(f"{command.name}: arguments of commands are JSON: {exc}") from exc
    packed = seal(signer, COMMANDS, {"id": command.id}, body)
    if len(packed) > MAX_PAYLOAD:
        raise CallError(f"{command.name}: a command has at most {MAX_PAYLOAD} bytes, and this one {len(packed)}")
    return packed


def unpack_command(data: bytes, signer: Signer | None) -> Command:
    """Return the command in `data`.

    Raises:
        MalformedMessage: it is none.
        Unsigned, BadSignature: commands are to be signed, and this one is not, or was changed.
    """
    head, body = unseal(signer, COMMANDS, data)
    given = _object(body)
    name, args, kwargs = given.get("name"), given.get("args"), given.get("kwargs")
    destination, reply_to, sent_at = given.get("destination"), given.get("reply_to"), given.get("sent_at")
    if not (isinstance(name, str) and is_name(name) and isinstance(args, list) and isinstance(kwargs, dict)):
        raise MalformedMessage("a command has a name, a list of arguments and an object of named ones")
    if not isinstance(sent_at, (int, float)) or not (reply_to is None or isinstance(reply_to, str)):
        raise MalformedMessage("a command says when it was sent, and who wants the answer")
    if destination is not None and not _are_names(destination):
        raise MalformedMessage(f"a command's destination is a list of at most {_MOST_DESTINATIONS} names")
    return Command(
        head["id"], name, cast("list[Any]", args), cast("dict[str, Any]", kwargs), destination, reply_to, sent_at
    )


def pack_answer(
    command_id: str, worker: str, key: str, answer: bytes, *, is_error: bool, signer: Signer | None
) -> Iterator[bytes]:
    """Yield the messages that bring `answer` (JSON, at most `MAX_ANSWER` bytes) to who asked."""
    count = max(1, -(-len(answer) // _PART))
    for number in range(count):
        head = {"id": command_id, "worker": worker, "key": key, "error": is_error, "part": number, "of": count}
        yield seal(signer, ANSWERS, head, answer[number * _PART : (number + 1) * _PART])


def unpack_answer(data: bytes, signer: Signer | None) -> AnswerPart:
    """Return the part of an answer in `data`; raises as `unpack_command`."""
    head, body = unseal(signer, ANSWERS, data)
    worker, key, number, count = head.get("worker"), head.get("key"), head.get("part"), head.get("of")
    if not (isinstance(worker, str) and isinstance(key, str)):
        raise MalformedMessage("an answer names its worker")
    if not (isinstance(number, int) and isinstance(count, int) and 0 <= number < count <= _MOST_PARTS):
        raise MalformedMessage("an answer says which of its parts this is")
    return AnswerPart(head["id"], worker, key, bool(head.get("error")), number, count, body)


def as_json(answer: object) -> bytes:
    """Return what a command answers as JSON: what has no such form as its repr."""
    try:
        return orjson.dumps(answer, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, RecursionError) as exc:
        raise CallError(f"the answer has no form in JSON: {exc}") from exc


def seal(signer: Signer | None, topic: str, head: dict[str, Any], body: bytes) -> bytes:
    """Return a message of `topic`: `head`, which has an id, as one line, signed if there is a signer, and `body`."""
    if signer is not None:
        head["signature"] = signer.signed(_as_message(topic, head, body)).signature
    return orjson.dumps(head) + b"\n" + body


def unseal(signer: Signer | None, topic: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return head and body of what `seal` made; raises as `unpack_command`."""
    line, separator, body = data.partition(b"\n")
    head = _object(line)
    command_id, signature = head.get("id"), head.pop("signature", None)
    if not separator or not isinstance(command_id, str) or not is_name(command_id):
        raise MalformedMessage("a message of remote control begins with a line that names its command")
    if signer is not None:
        if signature is not None and not isinstance(signature, str):
            raise BadSignature("the signature is no text")
        signer.verify(replace(_as_message(topic, head, body), signature=signature))
    return head, body


def _as_message(topic: str, head: Mapping[str, Any], body: bytes) -> Message:
    """Return what is signed: a message that is no call, since no task can have such a name."""
    signed = orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n" + body
    return Message(id=head["id"], task=f"aiotq\n{topic}", body=signed)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise MalformedMessage(f"no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise MalformedMessage("no JSON object")
    return cast("dict[str, Any]", found)


def _are_names(given: object) -> bool:
    return (
        isinstance(given, list)
        and len(cast("list[object]", given)) <= _MOST_DESTINATIONS
        and all(isinstance(each, str) for each in cast("list[object]", given))
    )
