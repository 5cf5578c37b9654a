"""The hot half of a channel on a tap: a batch is one write and one future, deliveries and confirms come in bulk."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...exceptions import ConnectionLost, MalformedMessage, NotConnected, OperationalError, Refused
from .channel import Channel, Line, Published, Tags, translated
from .frames import (
    ACK,
    BODY_SIZE,
    CANCEL,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    DELIVER,
    GET_EMPTY,
    GET_OK,
    HEADER,
    METHOD,
    NACK,
    PROPERTIES,
    RETURN,
    Delivered,
    Post,
    ack_frame,
    close_of,
    deliver_of,
    get_frame,
    get_ok_of,
    header_size,
    method_of,
    nack_frame,
    publish_frames,
    return_of,
    tag_of,
    text_of,
)
from .properties import properties_of
from .tap import Tap

#: Seconds that publishing waits in a blocked connection before it says so.
_BLOCKED_PATIENCE: Final = 0.5


class _Group:
    """Messages published together; done when each is confirmed."""

    __slots__ = ("done", "left", "nacked", "returned", "since")

    def __init__(self, count: int, done: asyncio.Future[None], since: float) -> None:
        self.left = count
        self.done = done
        self.since = since
        self.nacked: list[int] = []
        self.returned: dict[int, str] = {}


class Lane(Channel):
    """A channel whose messages go by the tap.

    It ends when Channel.Close or Close-Ok passes there, not when aiormq gets to it: its number may be another's then.
    """

    def __init__(self, line: Line, requests: Any, tap: Tap) -> None:
        super().__init__(line, requests)
        self._tap = tap
        self._published = 0
        self._unconfirmed: dict[int, _Group] = {}
        self._gets: deque[tuple[asyncio.Future[Delivered | None], float]] = deque()
        # A content under way: who takes it, what its method said, its properties, and its body so far.
        self._take: Callable[[Any, bytes, bytes], None] | None = None
        self._method: Any = None
        self._properties = b""
        self._missing = 0
        self._parts: list[bytes] = []
        tap.lanes[self.number] = self

    @property
    def waits_since(self) -> float | None:
        since = [self._gets[0][1]] if self._gets else []
        if self._unconfirmed:
            since.append(next(iter(self._unconfirmed.values())).since)
        return min(since, default=None)

    @property
    def next_number(self) -> int:
        return self._published + 1

    # Sending

    async def publish(self, posts: Sequence[Post]) -> Published:
        line = self.line
        if not self.is_open:
            raise self._gone()
        if line.blocked is not None:
            raise NotConnected(self._blocked())
        for post in posts:
            if (size := header_size(post.properties)) > line.frame_max:
                raise Refused(
                    f"{line.name}: the headers of a message to {post.routing_key!r} have {size} bytes, "
                    f"and {line.frame_max} is the most (frame_max): nothing was sent",
                    "too_large",
                )
        first = self._published + 1
        group = _Group(len(posts), self._loop.create_future(), self._loop.time())
        self._published += len(posts)
        self._unconfirmed.update(dict.fromkeys(range(first, first + len(posts)), group))
        self._tap.write(b"".join([publish_frames(self.number, post, line.frame_max) for post in posts]))
        await group.done
        return Published(
            [tag - first for tag in group.nacked], {tag - first: text for tag, text in group.returned.items()}
        )

    def get(self, queue: str) -> asyncio.Future[Delivered | None]:
        answer: asyncio.Future[Delivered | None] = self._loop.create_future()
        if not self.is_open:
            _fail(answer, self._gone())
        else:
            self._gets.append((answer, self._loop.time()))
            self._tap.write(get_frame(self.number, queue))
        return answer

    def _settle(self, acknowledged: Sequence[Tags], returned: Sequence[Tags]) -> None:
        frames = [ack_frame(self.number, tag, multiple=multiple) for tag, multiple in acknowledged]
        frames += [nack_frame(self.number, tag, multiple=multiple) for tag, multiple in returned]
        self._tap.write(b"".join(frames))

    # Ending

    def was_blocked(self) -> None:
        """The connection is blocked by an alarm: who waits for confirms is told, soon."""
        if self._unconfirmed:
            self._loop.call_later(_BLOCKED_PATIENCE, self._give_up_blocked)

    def _give_up_blocked(self) -> None:
        if self.line.blocked is None:
            return
        error = f"{self.line.name} accepts nothing: {self.line.blocked}; what was sent last waits there"
        for group in set(self._unconfirmed.values()):
            _fail(group.done, ConnectionLost(error))

    def _end(self, error: OperationalError) -> None:
        if self._tap.lanes.get(self.number) is self:
            del self._tap.lanes[self.number]
        waiting: list[asyncio.Future[Any]] = [answer for answer, _ in self._gets]
        waiting += [group.done for group in set(self._unconfirmed.values())]
        self._gets.clear()
        self._unconfirmed.clear()
        for each in waiting:
            _fail(each, error)

    # Receiving

    def takes(self, kind: int, frames: bytes, at: int, end: int) -> bool:
        """Take a frame of the hot half; all others are aiormq's."""
        if kind == METHOD:
            return self._takes_method(frames, at)
        if self._take is None:
            return False
        if kind == HEADER:
            (self._missing,) = BODY_SIZE.unpack_from(frames, at + 4)
            self._properties = frames[at + PROPERTIES : end]
        else:
            self._missing -= end - at
            self._parts.append(frames[at:end])
        if self._missing <= 0:
            self._whole()
        return True

    def _takes_method(self, frames: bytes, at: int) -> bool:
        which = method_of(frames, at)
        if which == DELIVER:
            self._take, self._method = self._delivered, deliver_of(frames, at)
        elif which == ACK:
            self._confirmed(*tag_of(frames, at), is_accepted=True)
        elif which == NACK:
            self._confirmed(*tag_of(frames, at), is_accepted=False)
        elif which == RETURN:
            self._take, self._method = self._returned, return_of(frames, at)
        elif which == GET_OK and self._gets:
            self._take, self._method = self._got, get_ok_of(frames, at)
        elif which == GET_EMPTY and self._gets:
            self._answer(None)
        else:
            self._notice(which, frames, at)
            return False
        return True

    def _notice(self, which: int, frames: bytes, at: int) -> None:
        """Take notice of what aiormq sees to."""
        if which == CHANNEL_CLOSE:
            self.end(translated(self.line.name, *close_of(frames, at)))
        elif which == CHANNEL_CLOSE_OK:
            self.end(NotConnected(f"{self.line.name}: the channel was closed"))
        elif which == CANCEL and self.on_cancel is not None:
            self.on_cancel(text_of(frames, at))

    def _whole(self) -> None:
        take, parts = self._take, self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._take, self._parts = None, []
        if take is not None:
            take(self._method, self._properties, body)

    def _delivered(self, method: tuple[str, int, bool, str, str], properties: bytes, body: bytes) -> None:
        arrival = Delivered(*method, properties, body)
        self._unsettled[arrival.tag] = None
        if self.on_arrival is not None:
            self.on_arrival(arrival)

    def _got(self, method: tuple[str, int, bool, str, str], properties: bytes, body: bytes) -> None:
        arrival = Delivered(*method, properties, body)
        self._unsettled[arrival.tag] = None
        self._answer(arrival)
        if self.on_arrival is not None:
            self.on_arrival(arrival)

    def _answer(self, arrival: Delivered | None) -> None:
        answer, _ = self._gets.popleft()
        if not answer.done():
            answer.set_result(arrival)

    def _returned(self, method: tuple[str, str, str], properties: bytes, _: bytes) -> None:
        try:
            number = int(properties_of(properties).get("message_id", "0"))
        except (MalformedMessage, ValueError):
            return
        if (group := self._unconfirmed.get(number)) is not None:
            text, exchange, key = method
            group.returned[number] = f"{text} ({exchange or 'the default exchange'}, {key})"

    def _confirmed(self, tag: int, bits: int, *, is_accepted: bool) -> None:
        unconfirmed = self._unconfirmed
        tags = list(itertools.takewhile(lambda number: number <= tag, unconfirmed)) if bits & 1 else [tag]
        for number in tags:
            group = unconfirmed.pop(number, None)
            if group is None:
                continue
            group.left -= 1
            if not is_accepted:
                group.nacked.append(number)
            if group.left <= 0 and not group.done.done():
                group.done.set_result(None)

    async def _consumed(self, message: Any) -> None:
        """The tap has it."""


def _fail(waiting: asyncio.Future[Any], error: OperationalError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # retrieved: who asked may be gone
