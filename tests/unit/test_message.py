"""The wire form: what is packed comes back, and what was not packed by us is refused and nothing else (P5)."""

from __future__ import annotations

import struct
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiotq.exceptions import MalformedMessage
from aiotq.wire.message import (
    LONGEST_LIMIT,
    MAX_HEADERS,
    MAX_NAME,
    Envelope,
    Message,
    attempt_apart,
    new_id,
    pack,
    pack_envelope,
    unpack,
    unpack_envelope,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
names = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=MAX_NAME)
times = st.none() | st.floats(0, 1e11)
limits = st.none() | st.floats(0, LONGEST_LIMIT, exclude_min=True)
counts = st.integers(0, 2**31 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
messages = st.builds(
    Message,
    id=names,
    task=names,
    body=st.binary(max_size=200),
    content_type=text,
    content_encoding=text,
    reply_to=st.none() | text,
    sent_at=times,
    eta=times,
    expires=times,
    root_id=st.none() | text,
    parent_id=st.none() | text,
    retries=counts,
    attempt=counts,
    replacements=counts,
    soft_time_limit=limits,
    time_limit=limits,
    ignore_result=st.booleans(),
    shadow=st.none() | names,
    origin=st.none() | text,
    headers=st.none() | st.dictionaries(text, json_values, max_size=3),
    stamps=st.none() | st.dictionaries(names, st.lists(json_values, max_size=3), max_size=3),
)


def blob(headers: Any, body: bytes = b"[[],{},{}]", *, length: int | None = None) -> bytes:
    head = headers if isinstance(headers, bytes) else orjson.dumps(headers)
    return struct.pack(">I", len(head) if length is None else length) + head + body


@given(messages)
def test_what_is_packed_comes_back(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(messages, names, st.integers(0, 9), times)
def test_an_envelope_comes_back(message: Message, queue: str, priority: int, due: float | None) -> None:
    envelope = Envelope(message, queue, priority, due)

    assert unpack_envelope(pack_envelope(envelope)) == envelope


def test_defaults_take_no_room() -> None:
    message = Message("0" * 36, "proj.add", b"[[2,2],{},{}]")

    assert len(pack(message)) - len(message.body) < 80


def test_times_and_limits_may_be_whole_numbers() -> None:
    message = unpack(blob({"id": "a", "task": "t", "eta": 5, "time_limit": 3}))

    assert (message.eta, message.time_limit) == (5, 3)


IMPOSSIBLE: dict[str, list[Any]] = {
    "content_type": [None, 5, ["x"]],
    "reply_to": [None, 5, {}],
    "sent_at": ["now", None, True],
    "eta": ["2030-01-01", None, True, [1], -1, 1e18, 253402300800.0],
    "expires": ["2030-01-01", None, False, -0.5, 1e300],
    "root_id": [5],
    "parent_id": [5],
    "retries": [1.5, True, "1", None, -1, 2**63],
    "attempt": [1.5, True, None, -1],
    "replacements": [1.5, True, None, -1],
    "soft_time_limit": ["5", True, 0, -1, 315_360_001],
    "time_limit": ["5", True, 0, -1, 315_360_001, 2**62],
    "ignore_result": [0, 1, "true", None],
    "shadow": [5, "", "a\nb", "a\x1b[31mb"],
    "headers": [[], "x", None],
    "stamps": [[], "x", None, {"a": 1}, {"": []}, {"a\n": []}],
}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "shorter than its length field"),
        (b"\0\0\0", "shorter than its length field"),
        (b"\0\0\0\0", "not JSON"),
        (b"\xff\xff\xff\xff{}", "over the limit"),
        (blob({"id": "a", "task": "t"}, length=1000), "beyond the message's end"),
        (blob({"id": "a", "task": "t", "shadow": "x" * MAX_HEADERS}), "over the limit"),
        (blob(b"nope"), "not JSON"),
        (blob(b'{"id": "a", "task": "t"'), "not JSON"),
        (blob(b'{"id": "\xff", "task": "t"}'), "not JSON"),
        (blob(b'{"id": "\\ud800", "task": "t"}'), "not JSON"),
        (blob(b"[" * 5000), "not JSON"),
        (blob(b'{"id": "a", "task": "t", "eta": NaN}'), "not JSON"),
        (blob(b'{"id": "a", "task": "t", "eta": 1e999}'), "not JSON"),
        (blob([]), "are a list, not an object"),
        (blob("text"), "are a str, not an object"),
        (blob(None), "are a NoneType, not an object"),
        (blob({}), "'id' must be"),
        (blob({"id": "a"}), "'task' must be"),
        (blob({"task": "t"}), "'id' must be"),
        (blob({"id": "", "task": "t"}), "'id' must be"),
        (blob({"id": 5, "task": "t"}), "'id' must be"),
        (blob({"id": "x" * 256, "task": "t"}), "'id' must be"),
        (blob({"id": "a\nb", "task": "t"}), "'id' must be"),
        (blob({"id": "a", "task": "t\x1b[31m"}), "'task' must be"),
        (blob({"id": "a", "task": None}), "'task' must be"),
        (blob({"id": "a", "task": "x" * 256}), "'task' must be"),
        (blob({"id": "a", "task": "t", "body": "x"}), "unknown header 'body'"),
        (blob({"id": "a", "task": "t", "__class__": "x"}), "unknown header '__class__'"),
        (blob({"id": "a", "task": "t", "": "x"}), "unknown header ''"),
        *(
            (blob({"id": "a", "task": "t", name: value}), f"'{name}'")
            for name, values in IMPOSSIBLE.items()
            for value in values
        ),
    ],
)
def test_what_is_no_message_is_refused_with_what_is_wrong(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        unpack(data)

    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 1000


header_names = st.sampled_from(
    ["id", "task", "eta", "expires", "retries", "headers", "content_type", "time_limit", "ignore_result", "body", "x"]
)


@given(
    st.one_of(
        st.binary(max_size=100),
        st.builds(blob, st.binary(max_size=50), st.binary(max_size=10)),
        st.builds(blob, json_values),
        st.builds(blob, st.dictionaries(header_names, json_values).map(lambda more: {"id": "a", "task": "t"} | more)),
    )
)
@example(blob({"id": "a", "task": "t", "eta": 1e308}))
def test_nothing_but_malformed_message_is_ever_raised(data: bytes) -> None:
    for read in (unpack, unpack_envelope):
        try:
            found = read(data)
        except MalformedMessage:
            continue
        assert isinstance(found, (Message, Envelope))


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_is_still_a_message(message: Message, data: st.DataObject) -> None:
    whole = bytearray(pack_envelope(Envelope(message, "q")))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])

    try:
        envelope = unpack_envelope(damaged)
    except MalformedMessage:
        return
    assert isinstance(envelope.queue, str)
    assert isinstance(envelope.priority, int)
    assert envelope.due is None or isinstance(envelope.due, (int, float))
    assert isinstance(envelope.message.id, str)


@pytest.mark.parametrize("head", ["abc", [1, 2, 3], ["q", "4", None], ["q", 4, "x"], ["q", 4], {"a": 1}, None])
def test_what_is_no_envelope_is_refused(head: object) -> None:
    with pytest.raises(MalformedMessage, match="not a packed envelope"):
        unpack_envelope(blob(head, pack(Message("a", "t", b""))))


def test_new_ids_are_uuids_in_the_order_they_were_made() -> None:
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(uuid.UUID(each).version == 7 and str(uuid.UUID(each)) == each for each in ids)


def test_attempts_apart_are_read_back_and_their_runs_are_counted() -> None:
    for attempt in {attempt_apart() for _ in range(1000)}:
        message = Message("a", "add", b"", attempt=attempt + 3)

        assert unpack(pack(message)) == message
        assert message.runs_before == 3
    assert Message("a", "add", b"", attempt=5000).runs_before == 5000
