"""Events as messages on the bus: what is read is what was told, and anything else is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from aiotq.control.bus import MAX_PAYLOAD
from aiotq.control.event_format import (
    Common,
    Ended,
    Item,
    Wish,
    expanded,
    pack_events,
    pack_question,
    pack_wish,
    unpack_events,
    unpack_question,
    unpack_wish,
)
from aiotq.exceptions import BadSignature, MalformedMessage, Unsigned
from aiotq.wire.signing import SharedKey

HERE = Common.here("w1")
KEY = SharedKey("s" * 40)


def ended(**changes: Any) -> Item:
    row = Ended(
        *("succeeded", "id-1", "proj.add", "(2, 2)", "{}", "id-1", None, 0, None, None, 1.0, 2.0, 3.5),
        {"result": "4", "runtime": 1.5},
    )
    return tuple(row._replace(**changes))


def packed(items: list[Item], signer: SharedKey | None = None) -> list[bytes]:
    return [payload for payload, _ in pack_events(items, HERE, epoch=1000.0, clock=5, signer=signer)]


def test_a_call_that_ended_is_the_events_of_its_life() -> None:
    (payload,) = packed([ended()])
    received, started, succeeded = unpack_events(payload, None)

    assert (received["type"], received["timestamp"], received["clock"]) == ("task-received", 1001.0, 5)
    assert (received["uuid"], received["name"], received["args"], received["kwargs"]) == (
        *("id-1", "proj.add"),
        *("(2, 2)", "{}"),
    )
    assert (received["root_id"], received["parent_id"], received["retries"]) == ("id-1", None, 0)
    assert (started["type"], started["timestamp"], started["clock"]) == ("task-started", 1002.0, 6)
    assert (succeeded["type"], succeeded["timestamp"]) == ("task-succeeded", 1003.5)
    assert (succeeded["result"], succeeded["runtime"]) == ("4", 1.5)
    for event in (received, started, succeeded):
        assert (event["hostname"], event["pid"], event["utcoffset"]) == ("w1", HERE.pid, HERE.utcoffset)
    assert expanded([ended()], HERE, epoch=1000.0, clock=5) == [received, started, succeeded]


def test_what_was_told_before_is_not_told_again() -> None:
    (payload,) = packed([ended(received=None, started=None, ending="revoked", more={"expired": True})])
    (revoked,) = unpack_events(payload, None)

    assert (revoked["type"], revoked["expired"], revoked["uuid"]) == ("task-revoked", True, "id-1")


def test_events_of_a_batch_are_in_the_order_of_their_times() -> None:
    items = [ended(), {"type": "mine-own", "timestamp": 1002.5, "x": [1]}]
    (payload,) = packed(items)

    assert [event["type"] for event in unpack_events(payload, None)] == [
        *("task-received", "task-started", "mine-own", "task-succeeded")
    ]


def test_many_events_are_several_messages_that_fit_and_none_is_lost() -> None:
    items = [ended(uuid=f"id-{number}", args="x" * (number % 1000)) for number in range(5000)]
    payloads = packed(items, KEY)

    assert all(len(payload) <= MAX_PAYLOAD for payload in payloads)
    read = [event for payload in payloads for event in unpack_events(payload, KEY)]
    assert len(read) == 15_000
    assert {event["uuid"] for event in read} == {f"id-{number}" for number in range(5000)}


def test_texts_that_are_no_unicode_are_sent_and_what_is_too_large_is_left_out() -> None:
    items: list[Item] = [ended(args="(\ud800)"), {"type": "mine-x", "timestamp": 1.0, "text": "\udfff"}]
    large: Item = {"type": "mine-y", "timestamp": 1.0, "text": "x" * MAX_PAYLOAD}
    counts = [count for _, count in pack_events([*items, large], HERE, epoch=0.0, clock=1, signer=None)]

    assert sum(counts) == 2
    assert [event["type"] for payload in packed(items) for event in unpack_events(payload, None)].count("mine-x") == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"{}", b"3", b'[["succeeded"]]', b"[[1,2,3,4,5,6,7,8,9,10,11,12,13,{}]]"),
        b'[{"type":"task-started","timestamp":1}]',
        b'[{"type":"mine"}]',
        b'[{"type":5,"timestamp":1}]',
        b'[{"type":"mine","timestamp":"now"}]',
        b'[["succeeded","id","n","","",null,null,0,"soon",null,1,2,3,{}]]',
        b'[["succeeded","id","n","","",null,null,0,1e300,null,1,2,3,{}]]',
        b'[["succeeded","id","n","","",null,null,0,null,null,"a",2,3,{}]]',
        b'[["succeeded","id","n","","",null,null,0,null,null,1,2,null,{}]]',
        b'[["succeeded","id","n","","",null,null,0,null,null,1,2,3,4]]',
    ],
)
def test_what_is_no_batch_of_events_is_refused(body: bytes) -> None:
    head = orjson.dumps(
        {"id": "x", "v": 1, "hostname": "w", "pid": 1, "utcoffset": 0, "clock": 1, "epoch": 0.0, "count": 1}
    )
    with pytest.raises(MalformedMessage):
        unpack_events(head + b"\n" + body, None)


@pytest.mark.parametrize(
    "payload", [b"", b"\n", b"\x00\xff\n[]", b'{"id":"x"}\n[]', b'{"id":"x","v":2}\n[]', b"{}\n[]"]
)
def test_what_has_no_head_or_is_of_another_version_is_refused(payload: bytes) -> None:
    for unpack in (unpack_events, unpack_wish, unpack_question):
        with pytest.raises(MalformedMessage):
            unpack(payload, None)


def test_a_version_to_come_may_say_more() -> None:
    (payload,) = packed([ended()])
    head, _, body = payload.partition(b"\n")
    (row,) = orjson.loads(body)

    assert len(unpack_events(head + b"\n" + orjson.dumps([[*row, "more"], 7, None]), None)) == 3


def test_with_a_key_what_is_not_signed_is_refused() -> None:
    wish = Wish("somewhere", 15.0, True)
    assert unpack_wish(pack_wish(wish, KEY), KEY) == wish
    assert unpack_question(pack_question("here", KEY), KEY) == "here"
    for unpack, payload in (
        (unpack_events, packed([ended()])[0]),
        (unpack_wish, pack_wish(wish, None)),
        (unpack_question, pack_question("here", None)),
    ):
        with pytest.raises(Unsigned):
            unpack(payload, KEY)
    (signed,) = packed([ended()], KEY)
    with pytest.raises(BadSignature):
        unpack_events(signed.replace(b"proj.add", b"proj.sub"), KEY)
    with pytest.raises(BadSignature):
        unpack_wish(pack_wish(wish, KEY).replace(b"somewhere", b"elsewhere"), KEY)
