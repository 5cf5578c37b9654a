"""The tap on a connection's frames: what is a lane's goes there, all else to aiormq, however the bytes are cut."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import pamqp.commands
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from aiotq.backends.amqp.frames import HEARTBEAT_FRAME
from aiotq.backends.amqp.tap import Tap

Basic, ChannelOf = pamqp.commands.Basic, pamqp.commands.Channel


def frame(value: object, number: int = 1) -> bytes:
    framed: bytes = pamqp.frame.marshal(value, number)  # type: ignore[arg-type]
    return framed


DELIVER = frame(Basic.Deliver("c", 1, False, "", "q"))
HEADER = frame(ContentHeader(body_size=5))
BODY = frame(ContentBody(b"hello"))
ACK = frame(Basic.Ack(1, False))
QOS_OK = frame(Basic.QosOk())
ELSEWHERE = frame(Basic.Ack(1, False), 2)
BLOCKED = frame(pamqp.commands.Connection.Blocked("low on memory"), 0)
BEAT = frame(Heartbeat(), 0)
#: What a lane takes, and what it leaves to aiormq.
TAKEN = (DELIVER, HEADER, BODY, ACK)
LEFT = (QOS_OK, ELSEWHERE, BLOCKED, BEAT)


class Lane:
    """Takes the frames of `TAKEN`."""

    def __init__(self) -> None:
        self.took: list[bytes] = []

    def takes(self, kind: int, frames: bytes, at: int, end: int) -> bool:
        whole = frames[at - 7 : end + 1]
        if whole not in TAKEN:
            return False
        self.took.append(whole)
        return True


class Keeper:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def gone(self) -> None:
        self.told.append("gone")

    def was_blocked(self) -> None:
        self.told.append("blocked")


def fed(pieces: Sequence[bytes]) -> tuple[Tap, Lane, bytes]:
    """Feed a tap; return it, its lane, and what aiormq got but for signs of life."""

    async def feed() -> tuple[Tap, Lane, bytes]:
        tap, lane = Tap(asyncio.get_running_loop()), Lane()
        tap._told_at = tap.heard_at
        tap.lanes[1] = lane
        tap.keeper = Keeper()
        for piece in pieces:
            tap.feed_data(piece)
        buffered: bytes = bytes(tap._buffer)  # type: ignore[attr-defined]
        return tap, lane, buffered

    return asyncio.run(feed())


STREAM = (QOS_OK, DELIVER, HEADER, BODY, ELSEWHERE, ACK, BLOCKED, BEAT)


def test_frames_cut_at_every_byte_arrive_whole_and_in_their_order() -> None:
    stream = b"".join(STREAM)
    for at in range(len(stream) + 1):
        tap, lane, left = fed([stream[:at], stream[at:]] if 0 < at < len(stream) else [stream])

        assert lane.took == [DELIVER, HEADER, BODY, ACK]
        assert left == QOS_OK + ELSEWHERE + BLOCKED + BEAT
        assert tap.blocked == "low on memory"


@given(st.lists(st.sampled_from(STREAM), max_size=20), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_frames_in_pieces_of_any_size_arrive_whole(frames: list[bytes], sizes: list[int]) -> None:
    stream, pieces = b"".join(frames), list[bytes]()
    while stream:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[:size])
        stream = stream[size:]

    _, lane, left = fed(pieces)

    assert lane.took == [each for each in frames if each in TAKEN]
    assert left == b"".join(each for each in frames if each in LEFT)


def test_a_large_frame_is_put_together_once() -> None:
    """16 MB in the pieces in which asyncio hands them over."""
    body = b"x" * (16 * 1024 * 1024)
    large = frame(ContentBody(body), 2)

    _, lane, left = fed([large[at : at + 65_536] for at in range(0, len(large), 65_536)])

    assert left == large
    assert not lane.took


def test_aiormq_hears_signs_of_life_while_a_lane_takes_all() -> None:
    async def feed() -> list[bytes]:
        tap = Tap(asyncio.get_running_loop())
        tap.lanes[1] = Lane()
        heard = []
        for second in range(4):
            tap._now = lambda second=second: 100.0 + 0.7 * second  # type: ignore[misc]
            tap.feed_data(ACK)
            heard.append(bytes(tap._buffer))  # type: ignore[attr-defined]
            tap._buffer.clear()  # type: ignore[attr-defined]
        return heard

    assert asyncio.run(feed()) == [HEARTBEAT_FRAME, b"", HEARTBEAT_FRAME, b""]


@pytest.mark.parametrize(
    "junk",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\0\1\0\0",
        struct.pack(">BHI", 1, 1, 2**31) + b"\0",
        struct.pack(">BHI", 1, 0, 4) + b"\0\x0a\0\x0a\xff",
        struct.pack(">BHI", 1, 0, 2) + b"\0\x0a\xce",
        b"\0" * 8,
    ],
)
def test_what_is_not_amqp_ends_the_connection_with_the_reason(junk: bytes) -> None:
    tap, _, left = fed([junk])

    assert tap.is_lost
    assert "does not speak AMQP" in tap.reason
    assert not left
    assert isinstance(tap.keeper, Keeper)
    assert tap.keeper.told == ["gone"]


def test_a_refusal_is_kept_with_its_words_and_not_left_to_aiormq() -> None:
    tap, _, left = fed([frame(pamqp.commands.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0), 0)])

    assert tap.refusal == (320, "CONNECTION_FORCED - shutdown")
    assert tap.is_lost
    assert not left
