"""Content types: what arrives is what was sent, or somebody is told which part could not be."""

from __future__ import annotations

import collections
import datetime
import json
import os
import subprocess
import sys
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption
from aiotq.wire.content_types import JSON, MSGPACK, PICKLE, YAML, standard_registry
from aiotq.wire.serializers import Serializer

from .serialized import (
    BOTH,
    Colour,
    Excluding,
    Holder,
    Item,
    Name,
    Number,
    Pair,
    Point,
    Secret,
    Stamp,
    Unprintable,
    WithInitVar,
    plain,
    serializers,
    text,
)


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
        1 + 2j,
        Name("x"),
        Pair(1, 2),
        collections.OrderedDict(a=1),
        Stamp(2030, 1, 1),
        WithInitVar(1),
        (1, object()),
        Point(object()),
        {(1, 2): 3},
        {Colour.RED: 1},
        Secret(password=pydantic.SecretStr("hush")),
        Holder(item=Item(name="a")),
        Excluding(kept=1, left_out=2),
        Number(x=float("nan")),
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

    with pytest.raises(
        EncodeError, match=r"^argument x\['a'\]\[1\](\[1\]|\.x)? can't be serialized as " + serializer.name
    ):
        registry.encode(serializer, {"b": 1, "a": [1, value]}, "argument x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), (float("nan"),)], ids=repr)
def test_what_json_would_change_in_silence_is_refused(value: Any) -> None:
    """What arrives is what was sent: NaN would arrive as None."""
    with pytest.raises(EncodeError, match=r"^it\[1\](\[0\])? can't be serialized as json"):
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


@serializers
def test_a_long_culprit_is_shown_short(serializer: Serializer) -> None:
    with pytest.raises(EncodeError) as caught:
        standard_registry().encode(serializer, [{("x" * 5000,): 1}], "it")

    assert len(str(caught.value)) < 400


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
        assert f"body of {len(body)} bytes" in str(error)  # noqa: PT017 (either may happen)


def test_sizes_that_msgpack_announces_are_not_believed() -> None:
    with pytest.raises(DecodeError):
        standard_registry().decode(MSGPACK.content_type, b"\xdd\xff\xff\xff\xff", BOTH)


@pytest.mark.parametrize("accept", [frozenset({"json"}), frozenset({"application/json"})])
def test_the_accept_list_has_names_or_content_types(accept: frozenset[str]) -> None:
    registry = standard_registry()

    assert registry.decode("application/json", b"1", accept) == 1
    with pytest.raises(ContentDisallowed, match=r"'application/x-msgpack' is not accepted \(accept_content: "):
        registry.decode("application/x-msgpack", b"\x01", accept)


@pytest.mark.parametrize("content_type", ["application/x-unheard-of", "json", "", "x" * 10_000])
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
    with pytest.raises(InvalidOption, match="unknown serializer 'cbor': known are json, msgpack, pickle, yaml"):
        registry.get("cbor")


def test_neither_pydantic_nor_anything_that_few_need_is_imported() -> None:
    rare = ["pydantic", "yaml", "decimal", "uuid", "zlib", "bz2", "lzma", "hmac", "cryptography", "brotli"]
    program = (
        "import sys; import aiotq.wire.content_types as s; from aiotq.wire.known_types import KnownTypes; "
        "s.JSON.decode(s.JSON.encode({'a': [1, 'x', None]})); s.standard_registry(KnownTypes());"
        f"print([name for name in {rare} if name in sys.modules])"
    )

    def loaded(program: str) -> set[str]:
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
            timeout=60,
        )
        return set(json.loads(run.stdout.replace("'", '"')))

    before = "import sys, asyncio, anyio, orjson, msgpack, dataclasses, inspect, typing, logging, tempfile, pathlib;"
    already = loaded(f"{before} print([name for name in {rare} if name in sys.modules])")
    assert loaded(program) <= already


# YAML and pickle


def test_yaml_reads_what_others_write_and_no_objects() -> None:
    assert YAML.decode(b"[2030-01-02, 1, {a: !!binary aGk=}]") == [datetime.date(2030, 1, 2), 1, {"a": b"hi"}]
    for body in (
        b"!!python/object/apply:os.system [ls]",
        b"a: &x [1]\nb: *x",
        b"[" * 200_000,
        b"[" * 300 + b"]" * 300,
        b"- " * 300 + b"1",
        b"1" * 5000,
        b"1:" * 5000 + b"1",
        b"\xff",
        b"--- 1\n--- 2",
    ):
        with pytest.raises(DecodeError):
            standard_registry().decode("application/x-yaml", body, frozenset({"yaml"}))


def test_pickle_is_used_only_where_it_is_accepted() -> None:
    registry = standard_registry()
    body = registry.encode(PICKLE, {1, 2}, "it")

    assert registry.decode(PICKLE.content_type, body, frozenset({"pickle"})) == {1, 2}
    with pytest.raises(ContentDisallowed):
        registry.decode(PICKLE.content_type, body, BOTH)
    with pytest.raises(InvalidOption, match=r"can run any code.*accept_content"):
        registry.to_send("pickle", BOTH)
    assert registry.to_send("pickle", ["application/x-python-serialize"]) is PICKLE
