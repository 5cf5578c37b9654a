"""One channel of a connection: requests answered in their order, deliveries, what is published and not confirmed."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from ...core.values import value
from ...exceptions import ConnectionLost, MalformedMessage, NotConnected, OperationalError
from .frames import (
    ACK,
    DELIVER,
    GET_OK,
    NACK,
    RETURN,
    Delivered,
    Post,
    ack_frame,
    deliver_of,
    get_ok_of,
    nack_frame,
    pamqp,
    properties_of,
    publish_frames,
    return_of,
    tag_of,
)

_SIZE: Final = struct.Struct(">Q")
#: Seconds that publishing waits in a blocked connection before it says so.
_BLOCKED_PATIENCE: Final = 0.5
_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_PRECONDITION: Final = 406
_FORCED: Final = 320
_NOT_ALLOWED: Final = 530
_MEANINGS: Final = {
    _ACCESS_REFUSED: "the user of the URL is not allowed to do this (rabbitmqctl set_permissions)",
    _NOT_ALLOWED: "the virtual host of the URL does not exist, or its user may not use it",
}


class Refused(OperationalError):
    """RabbitMQ refused a request and closed the channel; `.code` of AMQP, `.text` as the server wrote it."""

    def __init__(self, message: str, code: int, text: str) -> None:
        super().__init__(message)
        self.code, self.text = code, text

    @property
    def is_missing(self) -> bool:
        return self.code == _NOT_FOUND

    @property
    def is_locked(self) -> bool:
        return self.code == _LOCKED

    @property
    def differs(self) -> bool:
        """Whether something of this name exists with other arguments."""
        return self.code == _PRECONDITION


def translated(name: str, code: int, text: str) -> OperationalError:
    """Return the error for a channel or connection that the server closed."""
    meaning = _MEANINGS.get(code)
    message = f"{name}: {meaning} ({text})" if meaning else f"{name}: {text} ({code})"
    return NotConnected(message) if code == _FORCED else Refused(message, code, text)


class ChannelOwner(Protocol):
    """What a channel asks of its connection."""

    name: str
    frame_max: int
    blocked: str | None

    @property
    def is_open(self) -> bool: ...

    def request(self, channel: int, frame: Any) -> None: ...

    def write(self, frames: bytes) -> None: ...

    def decoded(self, number: int, payload: bytes) -> Any: ...

    def lost(self) -> ConnectionLost: ...

    def forget(self, number: int) -> None: ...


@value
class Published:
    """What became of messages that were published together, by their places among them.

    `nacked` were not accepted; `returned` could not be routed, each with what the server says.
    """

    nacked: Sequence[int]
    returned: Mapping[int, str]


class _Group:
    """Messages published together; done when each is confirmed."""

    __slots__ = ("done", "left", "nacked", "returned", "since")

    def __init__(self, count: int, done: asyncio.Future[None], since: float) -> None:
        self.left = count
        self.done = done
        self.since = since
        self.nacked: list[int] = []
        self.returned: dict[int, str] = {}


class Channel:
    """A channel of `line`. `closed` says why there is none any more; None: it is open."""

    def __init__(self, line: ChannelOwner, number: int) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self.number = number
        self.closed: OperationalError | None = None
        #: Told each delivery: of consumers, and what basic.get brought.
        self.on_arrival: Callable[[Delivered], None] | None = None
        #: Told the tag of a consumer that the server has ended: its queue is gone.
        self.on_cancel: Callable[[str], None] | None = None
        #: Told once, when it is closed.
        self.on_closed: Callable[[], None] | None = None
        self._commands = pamqp("commands")
        self._replies: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._published = 0
        self._unconfirmed: dict[int, _Group] = {}
        self._unsettled: dict[int, None] = {}  #: tags of deliveries, the oldest first
        self._content: Callable[[bytes, bytes], None] | None = None  #: takes properties and body, when they are whole
        self._properties = b""
        self._missing = 0
        self._parts: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self.closed is None and self._line.is_open

    @property
    def waits_since(self) -> float | None:
        """Loop time from which the oldest reply or confirm is waited for."""
        since = [self._replies[0][1]] if self._replies else []
        if self._unconfirmed:
            since.append(next(iter(self._unconfirmed.values())).since)
        return min(since, default=None)

    def request(self, frame: Any) -> asyncio.Future[Any]:
        """Send a method and return its reply to be. Several may be under way.

        Its errors: ConnectionLost (no reply came), Refused (the server closed the channel).
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self.closed is not None or not self._line.is_open:
            reply.set_exception(self._gone())
            reply.exception()  # retrieved: who asked may be gone
            return reply
        self._replies.append((reply, self._loop.time()))
        self._line.request(self.number, frame)
        return reply

    async def close(self) -> None:
        """Close it; what was delivered on it and not settled is queued again."""
        if self.is_open:
            await self.request(self._commands.Channel.Close(200, "bye", 0, 0))

    async def publish(self, posts: Sequence[Post]) -> Published:
        """Publish `posts` and return when each is confirmed, in whatever way.

        The message id of a post's properties must be its number, counted from `next_number`: by that it is known among
        those that come back.

        Raises:
            NotConnected: nothing was sent.
            ConnectionLost: some of them may be in the broker.
            Refused: the server closed the channel; some of them may be in the broker.
        """
        line = self._line
        if self.closed is not None or not line.is_open:
            raise NotConnected(str(self._gone()))
        if line.blocked is not None:
            raise NotConnected(f"{line.name} accepts nothing: {line.blocked}; free memory or disk there")
        first = self._published + 1
        group = _Group(len(posts), self._loop.create_future(), self._loop.time())
        self._published += len(posts)
        self._unconfirmed.update(dict.fromkeys(range(first, first + len(posts)), group))
        line.write(b"".join([publish_frames(self.number, post, line.frame_max) for post in posts]))
        await group.done
        return Published(
            [tag - first for tag in group.nacked],
            {tag - first: text for tag, text in group.returned.items()},
        )

    @property
    def next_number(self) -> int:
        """The number of what is published next."""
        return self._published + 1

    def ack(self, tags: Collection[int]) -> None:
        """Acknowledge deliveries, the oldest of them together."""
        wanted = set(tags)
        through = 0
        for tag in self._unsettled:
            if tag not in wanted:
                break
            through = tag
        frames = [ack_frame(self.number, through, multiple=True)] if through else []
        frames += [ack_frame(self.number, tag) for tag in wanted if tag > through]
        self._settle(wanted, frames)

    def give_back(self, tags: Collection[int]) -> None:
        """Have deliveries queued again, each at its old place."""
        self._settle(tags, [nack_frame(self.number, tag) for tag in sorted(tags)])

    def give_back_all(self) -> None:
        """Have all that came and was not acknowledged queued again."""
        self._settle(list(self._unsettled), [nack_frame(self.number, 0, multiple=True)])

    def _settle(self, tags: Collection[int], frames: Sequence[bytes]) -> None:
        for tag in tags:
            self._unsettled.pop(tag, None)
        self._line.write(b"".join(frames))

    def was_blocked(self) -> None:
        """The connection is blocked by an alarm: who waits for confirms is told, soon."""
        if self._unconfirmed:
            self._loop.call_later(_BLOCKED_PATIENCE, self._give_up_blocked)

    def _give_up_blocked(self) -> None:
        if self._line.blocked is None:
            return
        error = f"{self._line.name} accepts nothing: {self._line.blocked}; what was sent last waits there"
        for group in set(self._unconfirmed.values()):
            if not group.done.done():
                group.done.set_exception(ConnectionLost(error))
                group.done.exception()  # retrieved: who asked may be gone

    def end(self, error: OperationalError) -> None:
        """It is no more."""
        if self.closed is not None:
            return
        self.closed = error
        waiting = [reply for reply, _ in self._replies]
        waiting += [group.done for group in set(self._unconfirmed.values())]
        self._replies.clear()
        self._unconfirmed.clear()
        for each in waiting:
            if not each.done():
                each.set_exception(error)
                each.exception()  # retrieved: who asked may be gone
        if self.on_closed is not None:
            self.on_closed()

    def _gone(self) -> OperationalError:
        return NotConnected(str(self.closed if self.closed is not None else self._line.lost()))

    def method(self, which: tuple[int, int], payload: bytes) -> None:
        """Take a method from the server."""
        if which == DELIVER:
            self._content = self._delivered(*deliver_of(payload))
        elif which == ACK:
            self._confirmed(*tag_of(payload), is_accepted=True)
        elif which == NACK:
            self._confirmed(*tag_of(payload), is_accepted=False)
        elif which == GET_OK:
            tag, is_redelivered, exchange, key = get_ok_of(payload)
            self._content = self._delivered("", tag, is_redelivered, exchange, key, is_reply=True)
        elif which == RETURN:
            _, text, exchange, key = return_of(payload)
            self._content = self._returned(f"{text} ({exchange or 'the default exchange'}, {key})")
        else:
            self._other(self._line.decoded(self.number, payload))

    def _other(self, frame: Any) -> None:
        commands = self._commands
        if isinstance(frame, commands.Channel.Close):
            self._line.request(self.number, commands.Channel.CloseOk())
            self._line.forget(self.number)
            self.end(translated(self._line.name, frame.reply_code, frame.reply_text))
        elif isinstance(frame, commands.Channel.CloseOk):
            self._answer(frame)
            self._line.forget(self.number)
            self.end(NotConnected(f"{self._line.name}: the channel was closed"))
        elif isinstance(frame, commands.Basic.Cancel):
            if self.on_cancel is not None:
                self.on_cancel(frame.consumer_tag)
        elif isinstance(frame, commands.Channel.Flow):
            self._line.request(self.number, commands.Channel.FlowOk(active=frame.active))
        else:
            self._answer(frame)

    def _answer(self, frame: Any) -> None:
        if not self._replies:
            raise ValueError(f"{frame.name} was not asked for")
        reply, _ = self._replies.popleft()
        if not reply.done():
            reply.set_result(frame)

    def header(self, payload: bytes) -> None:
        """Take the header of a content."""
        (self._missing,) = _SIZE.unpack_from(payload, 4)
        self._properties = payload[12:]
        if not self._missing:
            self._whole()

    def content(self, payload: bytes) -> None:
        """Take a part of a content's body."""
        self._missing -= len(payload)
        self._parts.append(payload)
        if self._missing <= 0:
            self._whole()

    def _whole(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        take, self._content = self._content, None
        if take is not None:
            take(self._properties, body)

    def _delivered(
        self, consumer: str, tag: int, is_redelivered: bool, exchange: str, key: str, *, is_reply: bool = False
    ) -> Callable[[bytes, bytes], None]:
        def take(properties: bytes, body: bytes) -> None:
            self._unsettled[tag] = None
            arrival = Delivered(consumer, tag, is_redelivered, exchange, key, properties, body)
            if is_reply:
                reply, _ = self._replies.popleft()
                if not reply.done():
                    reply.set_result(arrival)
            if self.on_arrival is not None:
                self.on_arrival(arrival)

        return take

    def _returned(self, why: str) -> Callable[[bytes, bytes], None]:
        def take(properties: bytes, _: bytes) -> None:
            try:
                number = int(properties_of(properties).get("message_id", "0"))
            except (MalformedMessage, ValueError):
                return
            if (group := self._unconfirmed.get(number)) is not None:
                group.returned[number] = why

        return take

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
