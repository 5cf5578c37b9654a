"""Celery's protocol on the wire: what we send comes back, what Celery sends is read, all else is refused (P5)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiotq.backends.amqp.properties import pack_properties, properties_of
from aiotq.exceptions import MalformedMessage
from aiotq.wire.celery_protocol import OURS, Wire, from_wire, to_wire
from aiotq.wire.message import MAX_USER_HEADERS, Message, Step

from .test_message import counts, json_values, limits, messages, names, text

NAMES = [each.name for each in fields(Message)]
ID = "0190a0c5-0000-7000-a000-000000000001"

#: As Celery 5.7 sends `add.apply_async((2, 2), countdown=60, expires=120, time_limit=20, headers={"tenant": "acme"})`.
CELERYS: dict[str, Any] = {
    "lang": "py",
    "task": "proj.add",
    "id": ID,
    "shadow": None,
    "eta": "2026-11-21T12:00:00.250000+00:00",
    "expires": "2026-11-21T12:02:00+00:00",
    "group": "the-group",
    "group_index": 0,
    "retries": 2,
    "timelimit": [20, None],
    "root_id": ID,
    "parent_id": None,
    "argsrepr": "(2, 2)",
    "kwargsrepr": "{}",
    "origin": "gen1@host",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
    "tenant": "acme",
}


def read(headers: dict[str, Any] | None = None, body: bytes = b"[[2,2],{},{}]", **properties: Any) -> Message:
    given: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": ID,
        "reply_to": None,
        **properties,
    }
    return from_wire(headers=CELERYS if headers is None else headers, body=body, **given)


def carried(wire: Wire) -> Message:
    """Return the message that arrives."""
    headers = properties_of(pack_properties(headers=wire.headers))["headers"]
    return from_wire(wire.content_type, wire.content_encoding, wire.correlation_id, wire.reply_to, headers, wire.body)


any_messages = st.builds(
    replace,
    messages,
    compression=st.none() | text,
    signature=st.none() | text,
    losses=counts,
    step=st.none()
    | st.builds(Step, group_id=st.none() | names, group_index=st.none() | counts, awaits=st.none() | names),
)


@given(any_messages)
@example(Message(ID, "a", b"", root_id=ID))
@example(Message(ID, "a", b"", root_id="", reply_to="", origin=""))
@example(Message(ID, "a", b"", retries=300, attempt=300))
@example(Message(ID, "a", b"", retries=300))
@example(Message(ID, "a", b"", eta=5, expires=253_402_300_799.999))
@example(Message(ID, "a", b"", time_limit=300, soft_time_limit=0.1))
@example(Message(ID, "a", b"", step=Step()))
@example(Message(ID, "a", b"", step=Step("g", 0)))
@example(Message(ID, "a", b"", step=Step("g", 300, members=("a",), wait=0.1)))
@example(Message(ID, "a", b"", headers={}))
@example(Message(ID, "a", b"", headers={"id": "mine", "aiotq": 1, "aiotq-x": 2, "x-death": 3, "": 4, "é" * 200: 5}))
@example(Message(ID, "a", b"", headers={"a": 300, "b": 0.1, "c": 2**63, "d": [True, 1, 1.0], "e": {"f": 1e300}}))
@example(Message(ID, "a", b"", headers={"deep": orjson.loads("[" * 60 + "]" * 60)}))
@example(Message(ID, "a", b"", content_type="x" * 300, content_encoding="", reply_to="é" * 200))
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    there = carried(to_wire(message))

    assert there == message
    assert [type(getattr(there, name)) for name in NAMES] == [type(getattr(message, name)) for name in NAMES]


@pytest.mark.parametrize("headers", [{"many": [""] * 13_000}, {"one": "x" * 40_000}, {"n": [10**9] * 3_600}])
def test_all_headers_fit_into_one_frame(headers: dict[str, Any]) -> None:
    message = Message("i" * 255, "t" * 255, b"", headers=headers, origin="o" * 10_000, root_id="r" * 255)

    wire = to_wire(message)

    assert len(pack_properties(headers=wire.headers)) < 120_000
    assert carried(wire) == message


def test_what_celery_needs_is_said_in_its_words() -> None:
    message = Message(
        ID,
        "proj.add",
        b"[[2,2],{},{}]",
        reply_to="queue",
        sent_at=1.5,
        eta=1_763_726_400.25,
        expires=1_763_726_460,
        root_id="root",
        parent_id="parent",
        retries=2,
        attempt=2,
        time_limit=20,
        soft_time_limit=10,
        ignore_result=True,
        headers={"tenant": "acme"},
        compression="application/x-gzip",
    )

    wire = to_wire(message)

    rest = orjson.loads(wire.headers.pop(OURS))
    assert rest == {"sent_at": 1.5, "expires": 1_763_726_460}
    assert wire.headers == {
        "lang": "py",
        "task": "proj.add",
        "id": ID,
        "eta": "2025-11-21T12:00:00.250000+00:00",
        "expires": "2025-11-21T12:01:00+00:00",
        "root_id": "root",
        "parent_id": "parent",
        "retries": 2,
        "timelimit": [20, 10],
        "ignore_result": True,
        "tenant": "acme",
        "compression": "application/x-gzip",
    }
    assert (wire.correlation_id, wire.reply_to, wire.content_type) == (ID, "queue", "application/json")


def test_a_message_of_celerys_is_a_sound_one() -> None:
    message = read(reply_to="their-queue")

    assert message == Message(
        ID,
        "proj.add",
        b"[[2,2],{},{}]",
        reply_to="their-queue",
        eta=1_795_262_400.25,
        expires=1_795_262_520.0,
        retries=2,
        attempt=2,
        time_limit=20,
        origin="gen1@host",
        headers={"tenant": "acme"},
        step=Step("the-group", 0),
    )


def test_a_time_that_a_celery_worker_changed_counts() -> None:
    """It retries a message of ours, and keeps our header as one of the caller's."""
    headers = to_wire(Message(ID, "proj.add", b"", eta=1_795_262_399.123456789, sent_at=1.5)).headers

    message = read({**headers, "eta": "2026-11-21T12:00:00+00:00", "retries": 1})

    assert (message.eta, message.retries, message.attempt, message.sent_at) == (1_795_262_400.0, 1, 1, 1.5)


def test_what_the_broker_adds_on_the_way_is_not_the_callers() -> None:
    on_the_way = {"x-death": [{"count": 1}], "x-first-death-queue": "q", "x-delivery-count": 1, "aiotq-deaths": 2}

    assert read({**CELERYS, **on_the_way}).headers == {"tenant": "acme"}


@pytest.mark.parametrize("written", ["2026-11-21T12:00:00", "2026-11-21T12:00:00Z", "2026-11-21T13:00:00+01:00"])
def test_times_without_a_zone_are_utc(written: str) -> None:
    assert read({**CELERYS, "eta": written}).eta == 1_795_262_400.0


def test_values_that_are_not_jsons_are_read_as_text() -> None:
    headers = {"task": "a", "id": ID, "raw": b"\xff\x00", "many": (1, {"x": b"y"})}

    assert read(headers).headers == {"raw": "\\xff\x00", "many": [1, {"x": "y"}]}


@given(names, limits, st.dictionaries(text, json_values, max_size=3))
def test_garbage_in_a_header_is_refused_or_read_but_nothing_else(task: str, limit: Any, junk: dict[str, Any]) -> None:
    with suppress(MalformedMessage):
        read({"task": task, "id": ID, "timelimit": limit, **junk})


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({"id": 7}, "header 'id' must be a string"),
        ({"id": None}, "header 'id' must be a string"),
        ({"task": "a\nb"}, "header 'task' must be a string"),
        ({"eta": "soon"}, "header 'eta' is no time in ISO 8601: 'soon'"),
        ({"eta": 12}, "header 'eta' is no time in ISO 8601: 12"),
        ({"expires": "1960-01-01T00:00:00"}, "header 'expires' can't be"),
        ({"timelimit": 3}, "header 'timelimit' must be [time limit, soft time limit] in seconds, not 3"),
        ({"timelimit": [-1, None]}, "header 'time_limit' can't be -1"),
        ({"timelimit": ["1", None]}, "header 'timelimit' must be"),
        ({"retries": -1}, "header 'retries' can't be -1"),
        ({"retries": "many"}, "header 'retries' is a str"),
        ({"parent_id": 4}, "header 'parent_id' is a int"),
        ({"aiotq": "{"}, "header 'aiotq' is not JSON"),
        ({"aiotq": 4}, "header 'aiotq' is not JSON"),
        ({"aiotq": "[]"}, "header 'aiotq' must be an object"),
        ({"aiotq": '{"body": 1}'}, "header 'aiotq' must be an object"),
        ({"aiotq": '{"losses": "x"}'}, "header 'losses' is a str"),
        ({"aiotq": '{"new": 1}'}, "unknown header 'new'"),
        ({"long": "x" * MAX_USER_HEADERS}, "over the limit of 40960"),
        ({"origin": "x" * 70_000}, "over the limit of 65536"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(headers: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        read({**CELERYS, **headers})

    assert complaint in str(caught.value)


# Protocol 1

OLD: dict[str, Any] = {
    "task": "proj.add",
    "id": ID,
    "args": [2, 2],
    "kwargs": {"x": 1},
    "retries": 1,
    "eta": "2026-11-21T12:00:00",
    "timelimit": [None, 5],
    "callbacks": [{"task": "proj.log"}],
    "taskset": "group",
    "utc": True,
    "chord": None,
}


def test_protocol_1_is_read() -> None:
    message = read({"tenant": "acme"}, orjson.dumps(OLD))

    assert message == Message(
        ID,
        "proj.add",
        b'[[2,2],{"x":1},{"callbacks":[{"task":"proj.log"}]}]',
        eta=1_795_262_400.0,
        retries=1,
        attempt=1,
        soft_time_limit=5,
        headers={"tenant": "acme"},
        step=Step("group"),
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[[2,2],{},{}]", b'{"id": "x"}', b"7", b"\xff"])
def test_a_message_without_a_task_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match="no header 'task'"):
        read({}, body)


def test_protocol_1_in_another_form_is_refused_by_name() -> None:
    with pytest.raises(MalformedMessage, match="protocol 1, and that is read in JSON only, not application/x-msgpack"):
        read({}, b"x", content_type="application/x-msgpack")
