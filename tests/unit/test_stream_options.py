"""What tasks that stream can be, and what is said where they can't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotq import AioTQ, Stream
from aiotq.exceptions import CallError, InvalidOption
from aiotq.results.segments import Head, Place, Places, Reading, Segment


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rerun": "again"}, 'rerun must be "restart", "repeat" or "resume"'),
        ({"kept": 0}, "kept must be a whole number, 1 or more"),
        ({"kept": True}, "kept must be a whole number"),
        ({"expires": -1}, "expires must be a number of seconds above 0"),
        ({"reader_timeout": "1"}, "reader_timeout must be a number of seconds"),
        ({"ahead": 5}, "ahead needs reader_timeout"),
        ({"ahead": 50, "kept": 10, "reader_timeout": 1.0}, "must not be more than is kept"),
    ],
)
def test_a_policy_that_can_not_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Stream(**given)


async def test_a_task_that_can_not_stream_is_refused_where_it_is_declared_or_run() -> None:
    app = AioTQ("streams", broker="memory://")

    async def yields() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(InvalidOption, match="runs on the loop, not in process"):
        app.task(run="process")(yields)
    with pytest.raises(InvalidOption, match="can't ignore results"):
        app.task(ignore_result=True)(yields)
    with pytest.raises(InvalidOption, match="stream must be a Stream"):
        app.task(stream=True)(yields)  # type: ignore[call-overload]

    task = app.task(yields)

    assert [chunk async for chunk in task()] == [1], "called here it is the generator"
    with pytest.raises(CallError, match="needs a worker"):
        await (await task.apply())
    with pytest.raises(CallError, match="has no stream here"):
        await task.send_chunk(1)
    with pytest.raises(CallError, match=r"such as '12\.3', not 'x'"):
        app.AsyncResult("1").stream(after="x")
    with pytest.raises(CallError, match='from its "start"'):
        app.AsyncResult("1").stream("end")  # type: ignore[call-overload]


def test_what_is_stored_of_a_stream_comes_back_as_it_was() -> None:
    segment = Segment("run", 2, 7, (b"one", b"", b"two\n"), is_anew=False)
    head = Head("task", 2, 0, 9, "address", segment.packed())
    reading = Reading("reader", 9, has_left=True)

    assert Segment.unpacked(segment.packed()) == segment
    assert segment.after == 10
    assert Head.unpacked(head.packed()) == head
    assert Reading.unpacked(reading.packed("id"), b"id\n") == reading
    assert Reading.unpacked(reading.packed("other"), b"id\n") is None
    assert Place.of(str(Place(12, 3))) == Place(12, 3)
    assert Places("x" * 250).of(3).endswith(".3")
    assert len(Places("x" * 250).head) < 100
