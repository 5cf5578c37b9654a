"""What might be found where others can write too, and what should become of it (P5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from aiotq.exceptions import MalformedMessage
from aiotq.wire.message import Message, new_id, pack, unpack

from . import apps
from .backends import Backend, Postgres, RabbitMQ, Redis, SQLiteFile


def message(task: str = apps.step.name, body: bytes = b"[[0], {}, {}]", **headers: Any) -> bytes:
    return pack(Message(new_id(), task, body, **headers))


def framed(head: bytes, body: bytes = b"") -> bytes:
    return len(head).to_bytes(4, "big") + head + body


#: What stands where a packed message should, and the dead letter's reason.
JUNK: Final[Sequence[tuple[bytes, str]]] = (
    (b"", "malformed"),
    (b"\x00\xff\xfe junk", "malformed"),
    (b"\xff" * 100, "malformed"),
    (b"\x00" * 5_000_000, "malformed"),
    (framed(b"[]"), "malformed"),
    (framed(b"{}"), "malformed"),
    (framed(b'{"id": "a", "task": "\xff\xfe"}'), "malformed"),
    (framed(b'{"id": 1, "task": "t"}'), "malformed"),
    (framed(b'{"id": "a", "task": "t", "expires": 1e400}'), "malformed"),
    (framed(b'{"id": "a", "task": "t", "retries": -1}'), "malformed"),
    (framed(b"[" * 10_000 + b"]" * 10_000), "malformed"),
    (message(task="nobody.knows"), "unknown_task"),
    (message(body=b"[" * 10_000 + b"]" * 10_000), "undecodable"),
    (message(body=b'[["\xff\xfe"], {}, {}]'), "undecodable"),
    (message(body=b"not JSON"), "undecodable"),
    (message(body=b""), "undecodable"),
    (message(body=b"{}"), "malformed"),
    (message(body=b"[1, 2, 3]"), "malformed"),
    (message(body=b"[[], {}]"), "malformed"),
    (message(body=b"\x81" * 10_000, content_type="application/x-msgpack"), "undecodable"),
    (message(body=b" " * 5_000_000 + b"[[0], {}, {}]"), "malformed"),
    (message(body=b"cos\nsystem\n", content_type="application/x-python-serialize"), "content_disallowed"),
    (message(content_type="text/nothing"), "content_disallowed"),
)

# What only a file can hold: columns with values of other types.
NO_MESSAGES: Final = ("a text", 42, 4.2)
ODD_COLUMNS: Final[Sequence[dict[str, Any]]] = (
    {"priority": "high"},
    {"rank": "first"},
    {"rank": b"\xff"},
    {"deaths": "many"},
    {"charges": b"\xff\xfe"},
    {"returns": 1e300},
    {"since": "yesterday"},
    {"is_suspect": "perhaps"},
    {"attempt": "third"},
    {"id": b"\xff\xfe"},
)

# What only a Redis can hold: entries with other fields, delayed messages that are none.
NO_ENTRIES: Final[Sequence[tuple[str, dict[bytes, bytes]]]] = (
    ("4", {b"x": b"y"}),
    ("4", {b"": b""}),
    ("0", {b"\xff\xfe": b"\x00", b"payload": b"{}"}),
    ("a", {b"x": b"y"}),
    ("s", {b"k": b"\xff", b"p": b"high"}),
)
_OTHER_MEMBERS: Final[Sequence[object]] = (
    *([], {}, 7, [1, 2, 3], ["", 4, 0], [None] * 4),
    *(["", {}, [], b"x"], [[], 99, "n", "m"]),
)
NOT_DELAYED: Final[Sequence[bytes]] = (b"not MessagePack", *map(msgpack.packb, _OTHER_MEMBERS))
ODD_FIELDS: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    ("4", {"more": "than we wrote"}),
    ("9", {"k": b"\xff"}),
    ("a", {}),
    ("a", {"k": new_id(), "p": "high", "n": "many", "t": "yesterday"}),
    ("a", {"k": b"\xff\xfe", "p": 1e300, "n": -1, "t": -1}),
    ("s", {"k": new_id(), "p": "", "n": "1e300", "t": b"\x00"}),
)


def add_junk(backend: Backend) -> tuple[list[str], int]:
    """Put all of it into the queue; return the reasons of the dead letters to come, and how many can be run."""
    reasons = [reason for _, reason in JUNK]
    if isinstance(backend, SQLiteFile):
        backend.insert([_row(data=data) for data in (*(data for data, _ in JUNK), *NO_MESSAGES)])
        backend.insert([_row(**{"data": message(), **columns}) for columns in ODD_COLUMNS])
        return [*reasons, *["malformed"] * len(NO_MESSAGES)], len(ODD_COLUMNS)
    if isinstance(backend, RabbitMQ):
        whole = [(unpack(data), reason) for data, reason in JUNK if _is_message(data)]
        raw = [data for data, _ in JUNK if not _is_message(data)]
        backend.add(*(each for each, _ in whole))
        backend.add_raw(*raw)
        return [*(reason for _, reason in whole), *["malformed"] * len(raw)], 0
    if isinstance(backend, Postgres):  # its columns have types: what is odd there can't be written
        for data, _ in JUNK:
            backend.insert(f"{new_id()} 0", data)
        odd: Sequence[dict[str, int]] = ({"rank": 0, "deaths": -7}, {"rank": -1, "charges": -1}, {"deaths": 99})
        for columns in odd:
            backend.insert(f"{new_id()} 0", message(), **columns)
        backend.insert("a key that is none", message())
        return reasons, len(odd) + 1
    assert isinstance(backend, Redis)
    for data, _ in JUNK:
        backend.add("4", {"m": data})
    for level, fields in NO_ENTRIES:
        backend.add(level, fields)
    for member in NOT_DELAYED:
        backend.ask("ZADD", f"{backend.base}:q:default:delayed", time.time() * 1000, member)
    for level, more in ODD_FIELDS:
        backend.add(level, {"m": message(), **more})
    strange_deaths = [("many", b"\xff\xfe"), ("1e300", "-1"), (-7, 2.5)]
    for deaths, charges in strange_deaths:
        task_id = new_id()
        backend.ask("HSET", f"{backend.base}:deaths:{task_id}", "deaths", deaths, "charges", charges)
        backend.add("a", {"m": message(), "k": task_id, "p": 4, "n": 0, "t": 0})
    return [*reasons, *["malformed"] * (len(NO_ENTRIES) + len(NOT_DELAYED))], len(ODD_FIELDS) + len(strange_deaths)


def _is_message(data: bytes) -> bool:
    try:
        unpack(data)
    except MalformedMessage:
        return False
    return True


def _row(**columns: Any) -> dict[str, Any]:
    return {"queue": "default", "id": new_id(), **columns}
