"""Celery's task message protocol: a message as an AMQP broker carries it, and back (P5).

Written is version 2, read are 2 and 1. What Celery has no name for travels in one header of ours, as JSON: so does what
its form can't give back exactly. `from_wire(to_wire(message))` is that message; Celery's own give a sound one.

Source: Celery, "Message Protocol"; `celery.app.amqp`, `celery.app.task.Context`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

from ..core.values import shown, value
from ..exceptions import MalformedMessage, Refused
from .message import MAX_HEADERS, MAX_USER_HEADERS, Message, Step, from_headers

#: The header that is ours. A transport's own begin with it and a hyphen, and are no part of a message.
OURS: Final = "aiotq"
JSON: Final = "application/json"

#: Celery's header -> our name for it, where the value is the same.
_SAME: Final = {
    "root_id": "root_id",
    "parent_id": "parent_id",
    "retries": "retries",
    "ignore_result": "ignore_result",
    "shadow": "shadow",
    "origin": "origin",
    "compression": "compression",
    "replaced_task_nesting": "replacements",
}
#: The same for what stands in a message's `step`.
_SAME_IN_STEP: Final = {"group": "group_id", "group_index": "group_index"}
_TIMES: Final = ("eta", "expires")
#: What Celery's workers take for their own: a caller's header of such a name is sent where only we read it.
# fmt: off
_CELERYS: Final = frozenset((
    "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
    "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
    "stamps", "compression", "args", "kwargs", "callbacks", "errbacks", "chain", "chord", "called_directly",
    "correlation_id", "delivery_info", "headers", "hostname", "is_eager", "logfile", "loglevel", "properties",
    "reply_to", "taskset", "time_limit", "soft_time_limit", "utc", "children", "clear", "get", "update",
    "as_execution_options",
))
#: What RabbitMQ adds on the way.
_BROKERS: Final = frozenset((
    "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-last-death-exchange",
    "x-last-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count", "x-received-from", "CC",
    "BCC",
))
# fmt: on
_NOT_CALLERS: Final = _CELERYS | _BROKERS | {OURS}
#: What most messages have, and no others: those of them that mean something here mean the same.
_PLAIN: Final = frozenset((_SAME.keys() - {"retries"}) | {"lang", "task", "id", OURS})
_DEFAULTS: Final = tuple(
    (each.name, each.default) for each in fields(Message) if each.name not in {"id", "task", "body", "step"}
)
_STEP_DEFAULTS: Final = {each.name: each.default for each in fields(Step)}
_TO_CELERY: Final = tuple(
    (header, name, default)
    for header, ours in _SAME.items()
    for name, default in _DEFAULTS
    if name == ours and name != "root_id"
)
#: Bytes of a short string, which names and properties are.
_MAX_SHORT: Final = 255
#: By so much the times in Celery's headers are rounded, and a float's own error.
_MICROSECOND: Final = 2e-6
_MAX_WIRE_DEPTH: Final = 20
#: Properties of so many bytes are within all limits: in JSON they are six times as many at most.
_SURELY_WITHIN: Final = min(MAX_HEADERS, MAX_USER_HEADERS) // 6
#: Bytes of the caller's headers that are sent in Celery's way too: a table takes up to three times its JSON, and all
#: headers of a message must fit into one frame, of 128 kB mostly.
_MOST_SHARED: Final = 16 * 1024


@value
class Wire:
    """A message as AMQP has it: some properties, headers, body."""

    content_type: str
    content_encoding: str
    correlation_id: str | None
    reply_to: str | None
    headers: dict[str, Any]
    body: bytes


def _encoded_headers(message: Message) -> bytes:
    try:
        return orjson.dumps(message.headers)
    except TypeError as exc:
        raise Refused(f"message {message.id}: a header can't be sent: {exc}", "unencodable") from exc


def to_wire(message: Message) -> Wire:
    """Return `message` in protocol 2; raises Refused if one of its own headers has no form in JSON."""
    headers = _celery_headers(message)
    if message.headers and len(_encoded_headers(message)) <= _MOST_SHARED:
        headers |= _shared_headers(message.headers)
    wire = Wire(
        _short(message.content_type),
        _short(message.content_encoding),
        _short(message.id),
        _short(message.reply_to or "") or None,
        headers,
        message.body,
    )
    seen = _fields_of(wire.content_type, wire.content_encoding, wire.reply_to, headers)
    # What one who knows Celery alone would not read as it is.
    rest = {
        name: given
        for name, default in _DEFAULTS
        if (given := getattr(message, name)) is not (found := seen.get(name, default)) and not _is_same(given, found)
    }
    if message.step is not None and not _is_same(step := _without_defaults(message.step), seen.get("step")):
        rest["step"] = step
    if rest:
        headers[OURS] = orjson.dumps(rest).decode()
    return wire


def from_wire(
    content_type: str | None,
    content_encoding: str | None,
    correlation_id: str | None,
    reply_to: str | None,
    headers: Mapping[str, Any] | None,
    body: bytes,
    size: int | None = None,
) -> Message:
    """Return the message that arrived with these properties; `correlation_id` serves protocol 1 without an id.

    `size` is the bytes that the properties had, if that is known: few of them are within all limits.

    Raises:
        MalformedMessage: it is no task message; the text says what is wrong with it.
    """
    given: Mapping[str, Any] = headers or {}
    if "task" not in given:
        given, body = _from_protocol_1(content_type, dict(given), body, correlation_id)
        size = None
    found, rest = _fields_of(content_type, content_encoding, reply_to, given), _rest_of(given.get(OURS))
    for name in _TIMES:  # a Celery worker that retries a message of ours keeps our header beside times of its own
        if name in found and type(told := rest.get(name)) is float and abs(told - found[name]) > _MICROSECOND:
            del rest[name]
    found |= rest
    found["id"], found["task"] = given.get("id"), given.get("task")
    message = from_headers({name: each for name, each in found.items() if each is not None}, body)
    if size is None or size > _SURELY_WITHIN:
        _check_size(found, message)
    return message


def _celery_headers(message: Message) -> dict[str, Any]:
    """Return what Celery has a name for; what is as Celery's workers take it anyway is left out."""
    headers: dict[str, Any] = {"lang": "py", "task": message.task, "id": message.id}
    headers["root_id"] = message.root_id or message.id
    for header, name, default in _TO_CELERY:
        if (given := getattr(message, name)) != default:
            headers[header] = given
    if message.stamps is not None:
        with suppress(ValueError):  # what has no form there we read in the header that is ours
            stamps = dict(message.stamps)
            _check_sendable(stamps)
            headers |= {"stamped_headers": list(stamps), "stamps": stamps}
    if message.step is not None:
        for header, name in _SAME_IN_STEP.items():
            if (given := getattr(message.step, name)) is not None:
                headers[header] = given
    for name in _TIMES:
        if (when := getattr(message, name)) is not None:
            headers[name] = datetime.fromtimestamp(when, UTC).isoformat()
    if message.time_limit is not None or message.soft_time_limit is not None:
        headers["timelimit"] = [message.time_limit, message.soft_time_limit]
    return headers


def _fields_of(
    content_type: str | None, content_encoding: str | None, reply_to: str | None, headers: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what Celery's properties and headers say, by our names."""
    found: dict[str, Any] = {
        "content_type": content_type or JSON,
        "content_encoding": content_encoding or "utf-8",
        "reply_to": reply_to or None,
    }
    for header, given in headers.items():
        if given is not None and (name := _SAME.get(header)) is not None:
            found[name] = given
    if found.get("root_id") == headers.get("id"):
        found.pop("root_id", None)
    if not headers.keys() <= _PLAIN:  # nearly all have no others
        _add_others(found, headers)
    return found


def _add_others(found: dict[str, Any], headers: Mapping[str, Any]) -> None:
    """Add what few messages say."""
    step = {name: given for header, name in _SAME_IN_STEP.items() if (given := headers.get(header)) is not None}
    if step:
        found["step"] = step
    if (retries := found.get("retries")) is not None:
        found["attempt"] = retries
    for name in _TIMES:
        if (given := headers.get(name)) is not None:
            found[name] = _time_of(name, given)
    if (given := headers.get("timelimit")) is not None:
        found["time_limit"], found["soft_time_limit"] = _limits_of(given)
    if (given := headers.get("stamps")) and (stamps := _stamps_of(given, headers.get("stamped_headers"))):
        found["stamps"] = stamps
    if not headers.keys() <= _NOT_CALLERS:
        found["headers"] = _callers_headers(headers)


def _without_defaults(step: Step) -> dict[str, Any]:
    return {name: given for name, default in _STEP_DEFAULTS.items() if (given := getattr(step, name)) != default}


def _time_of(name: str, given: object) -> float:
    """Return seconds since the epoch from Celery's ISO 8601; one that names no zone is UTC's."""
    try:
        when = datetime.fromisoformat(cast("str", given))
    except (TypeError, ValueError):
        raise MalformedMessage(f"header {name!r} is no time in ISO 8601: {shown(given)}") from None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def _limits_of(given: object) -> tuple[float | None, float | None]:
    """Return time limit and soft time limit from Celery's pair, in which 0 is none."""
    if isinstance(given, (list, tuple)) and len(cast("list[Any]", given)) == 2:
        hard, soft = cast("list[Any]", given)
        if all(limit is None or type(limit) in {int, float} for limit in (hard, soft)):
            return hard or None, soft or None
    raise MalformedMessage(
        f"header 'timelimit' must be [time limit, soft time limit] in seconds, not {shown(cast('object', given))}"
    )


def _stamps_of(given: object, names: object) -> dict[str, list[Any]]:
    """Return the stamps in Celery's headers: those that are named, each with its values."""
    if not isinstance(given, dict) or not isinstance(names, (list, tuple)):
        raise MalformedMessage(
            f"headers 'stamps' and 'stamped_headers' can't be {shown(cast(object, given))} and {shown(names)}"
        )
    stamps = cast("dict[str, Any]", given)
    named = {str(name): _plain(stamps[name]) for name in cast("list[Any]", names) if name in stamps}
    return {name: cast("list[Any]", each) if isinstance(each, list) else [each] for name, each in named.items()}


def _rest_of(given: object) -> dict[str, Any]:
    """Return the fields in the header that is ours."""
    if given is None:
        return {}
    try:
        rest: object = orjson.loads(cast("str", given))
    except (orjson.JSONDecodeError, TypeError) as exc:
        raise MalformedMessage(f"header {OURS!r} is not JSON: {exc}") from exc
    if not isinstance(rest, dict) or "body" in rest:
        raise MalformedMessage(
            f"header {OURS!r} must be an object of a message's fields, not {shown(cast('object', rest))}"
        )
    return cast("dict[str, Any]", rest)


def _is_same(given: object, found: object) -> bool:
    if type(given) is not type(found):
        return False
    return given == found if not isinstance(given, dict) else orjson.dumps(given) == orjson.dumps(found)


def _check_size(found: dict[str, Any], message: Message) -> None:
    """Refuse headers that we could not store or send on."""
    if message.headers and (size := len(orjson.dumps(message.headers))) > MAX_USER_HEADERS:
        raise MalformedMessage(f"the caller's headers are {size} bytes, over the limit of {MAX_USER_HEADERS}")
    if (size := len(orjson.dumps(found))) > MAX_HEADERS:
        raise MalformedMessage(f"the headers are {size} bytes, over the limit of {MAX_HEADERS}")


# The caller's own headers


def _is_callers(name: str) -> bool:
    return name not in _NOT_CALLERS and not name.startswith(f"{OURS}-")


def _shared_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the caller's headers that stand among Celery's, as Celery's own clients put them there."""
    shared: dict[str, Any] = {}
    for name, given in headers.items():
        if _is_callers(name) and _short(name):
            with suppress(ValueError):  # what has no form there we read in the header that is ours
                _check_sendable(given)
                shared[name] = given
    return shared


def _callers_headers(headers: Mapping[str, Any]) -> dict[str, Any] | None:
    callers = {name: _plain(given) for name, given in headers.items() if _is_callers(name)}
    return callers or None


def _check_sendable(given: Any, depth: int = 0) -> None:
    """Raise ValueError if `given` has no form in a table of AMQP."""
    if depth > _MAX_WIRE_DEPTH:
        raise ValueError("too deep")
    if given is None or isinstance(given, (bool, str)):
        return
    if isinstance(given, int):
        if -(2**63) <= given < 2**63:
            return
    elif isinstance(given, float):
        if math.isfinite(given):
            return
    elif isinstance(given, list):
        for each in cast("list[Any]", given):
            _check_sendable(each, depth + 1)
        return
    elif isinstance(given, dict):
        for name, each in cast("dict[str, Any]", given).items():
            if not _short(name):
                raise ValueError("a name is too long, or empty")
            _check_sendable(each, depth + 1)
        return
    raise ValueError("no such value")


def _plain(given: Any, depth: int = 0) -> Any:
    """Return a header's value as JSON has it: brokers' clients also put bytes, times and decimals there."""
    if given is None or isinstance(given, (str, bool, float)):
        return given
    if isinstance(given, int) and -(2**63) <= given < 2**64:
        return given
    if depth > _MAX_WIRE_DEPTH:
        raise MalformedMessage("the caller's headers are nested too deeply")
    if isinstance(given, (list, tuple)):
        return [_plain(each, depth + 1) for each in cast("list[Any]", given)]
    if isinstance(given, dict):
        return {str(name): _plain(each, depth + 1) for name, each in cast("dict[Any, Any]", given).items()}
    if isinstance(given, (bytes, bytearray)):
        return given.decode("utf-8", "backslashreplace")
    return given.isoformat() if isinstance(given, datetime) else str(given)


def _short(text: str) -> str:
    """Return `text` if it fits where AMQP has short strings, else nothing."""
    return text if len(text.encode()) <= _MAX_SHORT else ""


# Protocol 1


def _from_protocol_1(
    content_type: str | None, headers: dict[str, Any], body: bytes, correlation_id: str | None
) -> tuple[dict[str, Any], bytes]:
    """Return headers and body of protocol 2 for a message that has everything in its body.

    Raises:
        MalformedMessage: it is none, or not in JSON.
    """
    if content_type not in {JSON, None} or headers.get("compression") is not None:
        raise MalformedMessage(
            f"there is no header 'task', as in Celery's protocol 1, and that is read in JSON only, not {content_type}: "
            "set task_protocol = 2 where it comes from"
        )
    try:
        decoded: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        decoded = None
    if not isinstance(decoded, dict) or "task" not in decoded:
        raise MalformedMessage(
            "there is no header 'task', and no task in the body (Celery's protocol 1): no task message"
        )
    found = cast("dict[str, Any]", decoded)
    args: Any = found.get("args") or []
    kwargs: Any = found.get("kwargs") or {}
    embed = {name: given for name in ("callbacks", "errbacks", "chord") if (given := found.get(name)) is not None}
    if (group := found.get("taskset")) is not None:
        found.setdefault("group", group)
    told = {
        name: given for name, given in found.items() if name in _CELERYS and name not in {"args", "kwargs", "headers"}
    }
    told.setdefault("id", correlation_id)
    return headers | told, orjson.dumps([args, kwargs, embed])
