"""Properties as they travel: what is written is read, as pamqp reads it and as Celery's client does."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.commands
import pamqp.decode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.backends.amqp.properties import pack_properties, properties_of
from aiotq.exceptions import MalformedMessage

from .test_message import text

short = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=10,
)
strings = short.filter(bool)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": strings,
        "content_encoding": strings,
        "headers": st.dictionaries(short, values, min_size=1, max_size=4),
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(1, 255),
        "correlation_id": strings,
        "reply_to": strings,
        "expiration": strings,
        "message_id": strings,
        "app_id": strings,
    },
)


def written(value: Any) -> bytes:
    """Return the type and bytes of a header's value."""
    return pack_properties(headers={"a": value})[2 + 4 + 2 :]


@given(properties)
def test_what_is_written_is_read(given: dict[str, Any]) -> None:
    assert properties_of(pack_properties(**given, user_id=None)) == given


def test_what_only_others_send_can_be_sent_on() -> None:
    headers = {"when": datetime(2026, 1, 2, tzinfo=UTC), "amount": [Decimal("1.5")], "raw": b"\xff"}

    assert properties_of(pack_properties(headers=headers))["headers"] == headers


def test_rare_properties_are_as_the_library_writes_them() -> None:
    given: dict[str, Any] = {
        "content_type": "x",
        "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
        "user_id": "guest",
        "message_type": "y",
    }

    assert pack_properties(**given) == pamqp.commands.Basic.Properties(**given).marshal()


@pytest.mark.parametrize(("value", "kind"), [(1, b"I"), (300, b"I"), (-300, b"I"), (2**31, b"l"), (0.1, b"d")])
def test_numbers_are_of_types_that_all_clients_read_alike(value: float, kind: bytes) -> None:
    assert written(value)[:1] == kind


@pytest.mark.parametrize(
    "given",
    [{"reply_to": "x" * 256}, {"headers": {"x" * 256: 1}}, {"headers": {"a": 2**63}}, {"headers": {"a": object()}}],
)
def test_what_can_not_be_sent_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        pack_properties(**given)


# What others may send: every type of field there is, encoded here, and read as pamqp reads it.

moments = st.integers(0, 2**32 - 1)


def field(kind: bytes, form: str, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return numbers.map(lambda number: kind + struct.pack(form, number))


def counted(kind: bytes, body: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return body.map(lambda each: kind + struct.pack(">I", len(each)) + each)


leaves = st.one_of(
    counted(b"S", st.binary(max_size=20)),
    counted(b"S", text.map(str.encode)),
    counted(b"x", st.binary(max_size=20)),
    field(b"t", ">?", st.booleans()),
    field(b"b", ">b", st.integers(-(2**7), 2**7 - 1)),
    field(b"B", ">B", st.integers(0, 2**8 - 1)),
    field(b"s", ">h", st.integers(-(2**15), 2**15 - 1)),
    field(b"u", ">H", st.integers(0, 2**16 - 1)),
    field(b"I", ">i", st.integers(-(2**31), 2**31 - 1)),
    field(b"i", ">I", st.integers(0, 2**32 - 1)),
    field(b"l", ">q", st.integers(-(2**63), 2**63 - 1)),
    field(b"L", ">q", st.integers(-(2**63), 2**63 - 1)),
    field(b"f", ">f", st.floats(width=32, allow_nan=False)),
    field(b"d", ">d", st.floats(allow_nan=False)),
    field(b"T", ">Q", moments | moments.map(lambda seconds: seconds * 1000)),
    st.tuples(st.integers(0, 20), st.integers(-(2**31), 2**31 - 1)).map(lambda each: b"D" + struct.pack(">Bi", *each)),
    st.sampled_from([b"V", b"\0"]),
)


def table(fields: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(bytes((len(name.encode()),)) + name.encode() + each for name, each in fields)
    return struct.pack(">I", len(body)) + body


fields = st.recursive(
    leaves,
    lambda inner: st.one_of(
        counted(b"A", st.lists(inner, max_size=4).map(b"".join)),
        st.lists(st.tuples(short, inner), max_size=4).map(lambda each: b"F" + table(each)),
    ),
    max_leaves=12,
)
tables = st.lists(st.tuples(short, fields), max_size=5).map(table)


def of_the_library(headers: bytes) -> Any:
    return pamqp.decode.by_type(headers, "table")[1]


@given(tables)
def test_headers_of_all_types_are_read_as_the_library_reads_them(headers: bytes) -> None:
    assert properties_of(b"\x20\x00" + headers)["headers"] == of_the_library(headers)


@given(tables, st.data())
def test_damaged_headers_are_malformed_or_read_and_nothing_else(headers: bytes, data: st.DataObject) -> None:
    damaged = bytearray(headers)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)))

    with suppress(MalformedMessage):
        properties_of(b"\x20\x00" + bytes(damaged))
    if end < len(headers):
        with pytest.raises(MalformedMessage):
            properties_of(b"\x20\x00" + headers[:end])


@pytest.mark.parametrize("kind", [b"A", b"F"])
def test_headers_that_are_too_deep_are_malformed(kind: bytes) -> None:
    inner = b""
    for _ in range(10_000):
        named = inner if kind == b"A" or not inner else b"\x01a" + inner
        inner = kind + struct.pack(">I", len(named)) + named

    with pytest.raises(MalformedMessage, match="within each other"):
        properties_of(b"\x20\x00" + table([("a", inner)]))


@given(properties)
def test_properties_are_read_as_the_library_reads_them(given: dict[str, Any]) -> None:
    packed = pack_properties(**given)
    read = pamqp.commands.Basic.Properties()
    read.unmarshal(int.from_bytes(packed[:2], "big"), packed[2:])

    assert properties_of(packed) == {name: value for name, value in read if value is not None and name != "cluster_id"}
