"""Content types: what arrives is what was sent, or somebody is told which part could not be."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption
from aiotq.serialization import JSON, MSGPACK, Serializer, standard_registry

BOTH = frozenset({"json", "msgpack"})

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
serializers = pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["json", "msgpack"])


@dataclasses.dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


class Name(str):
    __slots__ = ()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@serializers
@given(value=plain)
def test_plain_values_come_back(serializer: Serializer, value: Any) -> None:
    registry = standard_registry()

    body = registry.encode(serializer, value, "it")

    assert registry.decode(serializer.content_type, body, BOTH) == value


@given(st.binary(max_size=50))
def test_bytes_come_back_from_msgpack(value: bytes) -> None:
    registry = standard_registry()

    assert registry.decode(MSGPACK.content_type, registry.encode(MSGPACK, {"b": value}, "it"), BOTH) == {"b": value}


@serializers
@pytest.mark.parametrize(
    "value",
    [
        object(),
        Point(1),
        datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC),
        datetime.date(2030, 1, 1),
        decimal.Decimal(1),
        {1, 2},
        1 + 2j,
        2**64,
        -(2**63) - 1,
        "\ud800",
        Exception("x"),
        lambda: None,
        Unprintable(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_of_its_own_is_refused_and_not_changed(serializer: Serializer, value: Any) -> None:
    registry = standard_registry()

    with pytest.raises(EncodeError, match=r"^argument x\['a'\]\[1\] can't be serialized as " + serializer.name):
        registry.encode(serializer, {"b": 1, "a": [1, value]}, "argument x")


@pytest.mark.parametrize("value", [Name("x"), b"bytes", float("nan"), float("inf"), -float("inf")], ids=repr)
def test_what_json_would_change_in_silence_is_refused(value: Any) -> None:
    """What arrives is what was sent: NaN would arrive as None."""
    with pytest.raises(EncodeError, match=r"^it\[1\] can't be serialized as json"):
        standard_registry().encode(JSON, [None, value], "it")


@given(plain | st.recursive(st.floats() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(text, inner)))
def test_json_takes_exactly_what_it_gives_back(value: Any) -> None:
    registry = standard_registry()

    try:
        body = registry.encode(JSON, value, "it")
    except EncodeError:
        return
    assert registry.decode(JSON.content_type, body, BOTH) == value


def test_keys_that_are_not_strings_are_refused_by_json() -> None:
    with pytest.raises(EncodeError, match=r"it\['a'\] can't be serialized as json: \{1: 2\} of type dict"):
        standard_registry().encode(JSON, {"a": {1: 2}}, "it")


@pytest.mark.parametrize("value", [Colour.RED, uuid.UUID(int=0)])
def test_enums_and_uuids_become_their_values_in_json_and_are_refused_by_msgpack(value: Any) -> None:
    registry = standard_registry()

    assert registry.decode(JSON.content_type, registry.encode(JSON, value, "it"), BOTH) in (
        "red",
        str(uuid.UUID(int=0)),
    )
    with pytest.raises(EncodeError):
        registry.encode(MSGPACK, value, "it")


@serializers
def test_a_long_culprit_is_shown_short(serializer: Serializer) -> None:
    with pytest.raises(EncodeError) as caught:
        standard_registry().encode(serializer, [{"x" * 5000}], "it")

    assert len(str(caught.value)) < 300


@serializers
@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_what_is_nested_too_deeply_is_refused(serializer: Serializer, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]

    with pytest.raises(EncodeError, match=f"can't be serialized as {serializer.name}"):
        standard_registry().encode(serializer, value, "it")

    deep = {"json": b"[" * depth + b"]" * depth, "msgpack": b"\x91" * depth + b"\x01"}[serializer.name]
    with pytest.raises(DecodeError, match=f"is not {serializer.name}"):
        standard_registry().decode(serializer.content_type, deep, BOTH)


@serializers
def test_what_contains_itself_is_refused(serializer: Serializer) -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(EncodeError):
        standard_registry().encode(serializer, value, "it")


@serializers
@given(body=st.binary(max_size=60))
def test_bytes_are_a_value_or_a_decode_error(serializer: Serializer, body: bytes) -> None:
    try:
        standard_registry().decode(serializer.content_type, body, BOTH)
    except DecodeError as error:
        assert f"body of {len(body)} bytes is not {serializer.name}" in str(error)  # noqa: PT017 (either may happen)


def test_sizes_that_msgpack_announces_are_not_believed() -> None:
    with pytest.raises(DecodeError):
        standard_registry().decode(MSGPACK.content_type, b"\xdd\xff\xff\xff\xff", BOTH)


@pytest.mark.parametrize("accept", [frozenset({"json"}), frozenset({"application/json"})])
def test_the_accept_list_has_names_or_content_types(accept: frozenset[str]) -> None:
    registry = standard_registry()

    assert registry.decode("application/json", b"1", accept) == 1
    with pytest.raises(ContentDisallowed, match=r"'application/x-msgpack' is not accepted \(accept_content: "):
        registry.decode("application/x-msgpack", b"\x01", accept)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "json", "", "x" * 10_000])
def test_an_unknown_content_type_is_disallowed(content_type: str) -> None:
    with pytest.raises(ContentDisallowed) as caught:
        standard_registry().decode(content_type, b"1", frozenset({content_type}))

    assert len(str(caught.value)) < 11_000


def test_a_registered_type_is_decoded_only_when_it_is_accepted() -> None:
    registry = standard_registry()
    hexadecimal = Serializer("hex", "text/x-hex", "ascii", lambda v: hex(v).encode(), lambda body: int(body, 16))
    registry.register(hexadecimal)

    body = registry.encode(registry.get("hex"), 255, "it")

    assert registry.decode("text/x-hex", body, frozenset({"hex"})) == 255
    with pytest.raises(ContentDisallowed):
        registry.decode("text/x-hex", body, BOTH)
    with pytest.raises(DecodeError):
        registry.decode("text/x-hex", b"zz", frozenset({"hex"}))


def test_a_serializer_is_got_by_name_or_content_type() -> None:
    registry = standard_registry()

    assert registry.get("json") is registry.get("application/json") is JSON
    with pytest.raises(InvalidOption, match=r"unknown serializer 'jsn': did you mean 'json'\?"):
        registry.get("jsn")
    with pytest.raises(InvalidOption, match="unknown serializer 'pickle': known are json, msgpack"):
        registry.get("pickle")
