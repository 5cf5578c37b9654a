"""The pipe between a worker and a child: parts of any size, messages that break off, deadlines, ends."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from aiotq.worker.processes.pipe import BrokenOff, Pipe, PipeClosed, PipeTimeout

LARGE = 3_000_000


class CantBePickled:
    def __reduce__(self) -> NoReturn:
        raise ValueError("no")


class CantBeUnpickled:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return int, ("no number",)


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    """One that never blocks for longer than its deadline, and one that blocks."""
    one, two = socket.socketpair()
    with one, two:
        yield Pipe(one.fileno(), has_deadlines=True), Pipe(two.fileno())


def sending(pipe: Pipe, *messages: tuple[object, ...]) -> threading.Thread:
    """Send them in a thread: what is large fits into no buffer of the system."""

    def send_all() -> None:
        for message in messages:
            try:
                pipe.send(*message)
            except ValueError:
                pipe.send("it broke off")

    thread = threading.Thread(target=send_all)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "parts",
    [
        (None,),
        ("a head", {"x": [1, 2.5, b"three", "vier", None]}, 7),
        (b"x" * LARGE, "y" * LARGE, bytearray(b"z" * LARGE), list(range(200_000))),
        ("ü" * LARGE, {b"a" * 65_536: b"b" * 65_535, "small": b"c"}),
        (pickle.PickleBuffer(b"w" * LARGE),),
    ],
)
@pytest.mark.parametrize("sender", [0, 1])
def test_parts_of_any_size_arrive_as_they_were(ends: tuple[Pipe, Pipe], parts: tuple[Any, ...], sender: int) -> None:
    thread = sending(ends[sender], parts, ("the next",))
    to = ends[1 - sender]

    first = to.receive()
    arrived = (first, *[to.part() for _ in parts[1:]])
    assert to.finish()
    assert arrived == tuple(bytes(each) if isinstance(each, pickle.PickleBuffer) else each for each in parts)
    assert to.receive() == "the next"
    assert to.finish()
    thread.join()


def test_what_breaks_off_before_anything_was_sent_is_never_seen(ends: tuple[Pipe, Pipe]) -> None:
    with pytest.raises(ValueError, match="no"):
        ends[0].send("head", CantBePickled())
    ends[0].send("the next")

    assert ends[1].receive() == "the next"


def test_what_breaks_off_later_is_told_and_the_next_message_is_whole(ends: tuple[Pipe, Pipe]) -> None:
    thread = sending(ends[0], ("head", [b"x" * LARGE, CantBePickled()]), ("head", b"y" * LARGE, CantBePickled()))
    to = ends[1]

    assert to.receive() == "head"
    with pytest.raises(BrokenOff):
        to.part()
    assert to.finish()
    assert to.receive() == "it broke off"
    assert to.finish()
    assert to.receive() == "head"
    assert not to.finish(), "whoever skips the rest learns that it was not whole"
    assert to.receive() == "it broke off"
    thread.join()


def test_what_cant_be_unpickled_is_left_out(ends: tuple[Pipe, Pipe]) -> None:
    thread = sending(ends[0], ("head", [CantBeUnpickled(), b"x" * LARGE]), ("the next",))
    to = ends[1]

    assert to.receive() == "head"
    with pytest.raises(ValueError, match="no number"):
        to.part()
    assert to.finish()
    assert to.receive() == "the next"
    thread.join()


def test_a_part_too_many_is_an_error(ends: tuple[Pipe, Pipe]) -> None:
    ends[0].send("one")
    assert ends[1].receive() == "one"
    with pytest.raises(EOFError):
        ends[1].part()


def test_waiting_ends_at_the_deadline_both_ways(ends: tuple[Pipe, Pipe]) -> None:
    ends[0].deadline = time.monotonic() + 0.01
    with pytest.raises(PipeTimeout):
        ends[0].receive()
    with pytest.raises(PipeTimeout):
        ends[0].send(b"x" * LARGE)  # which nobody reads


def test_the_end_of_the_other_side_is_told() -> None:
    one, two = socket.socketpair()
    with one:
        pipe = Pipe(one.fileno())
        two.close()
        with pytest.raises(PipeClosed):
            pipe.receive()
        with pytest.raises(PipeClosed):
            pipe.send("anybody?")
