"""A channel of a connection: requests, which are aiormq's, and the hot half, which is a lane's or the ordinary one.

The hot half is what messages pass: publishing in batches, deliveries, acknowledgements.
"""

from __future__ import annotations

import abc
import asyncio
import itertools
import re
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import aiormq
from pamqp.exceptions import PAMQPException

from ... import exceptions
from ...core.aio import finish
from ...core.values import value
from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .frames import Delivered, Post

T = TypeVar("T")
#: A delivery's tag, and whether it stands for all before it too (0: for all there are).
Tags = tuple[int, bool]

#: Seconds that a request may take to its end when whoever made it has been cancelled: cut short it closes the channel.
_LAST_WORDS: Final = 1.0
_TOO_LARGE: Final = 311
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
#: "queue limit in vhost 'x' (5) is reached": names stand in these texts as well, and may have such a word in them.
_LIMIT_REACHED: Final = re.compile(r"\blimit\b.* reached")
#: What is refused again however often it is asked, in one word.
_REASONS: Final = {
    _TOO_LARGE: "too_large",
    _ACCESS_REFUSED: "forbidden",
    _NOT_FOUND: "queue",
    _LOCKED: "queue",
    _PRECONDITION: "queue",
    _NOT_ALLOWED: "forbidden",
}
_CODES: Final[Mapping[type[Exception], int]] = {
    aiormq.exceptions.ChannelAccessRefused: _ACCESS_REFUSED,
    aiormq.exceptions.ChannelNotFoundEntity: _NOT_FOUND,
    aiormq.exceptions.ChannelLockedResource: _LOCKED,
    aiormq.exceptions.ChannelPreconditionFailed: _PRECONDITION,
}
#: What aiormq and pamqp raise; a ValueError is pamqp's for a name that it does not send.
LIBRARY_ERRORS: Final = (aiormq.exceptions.AMQPError, aiormq.exceptions.ChannelInvalidStateError, PAMQPException)


class Refused(exceptions.Refused):
    """RabbitMQ refused a request and closed the channel; `.code` of AMQP, `.text` as the server wrote it."""

    def __init__(self, message: str, code: int, text: str) -> None:
        super().__init__(message, "limit" if is_limit(text) else _REASONS[code])
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
        return self.code == _PRECONDITION and not is_limit(self.text)


def translated(name: str, code: int, text: str) -> OperationalError:
    """Return the error for a channel or connection that the server closed.

    It is `Refused` if the same request would be refused again: not if a node of the cluster is away.
    """
    meaning = "a limit of the server is reached" if is_limit(text) else _MEANINGS.get(code)
    message = f"{name}: {meaning} ({text})" if meaning else f"{name}: {text} ({code})"
    if code == _FORCED:
        return NotConnected(message)
    return (
        Refused(message, code, text) if code in _REASONS and "inaccessible" not in text else OperationalError(message)
    )


def is_limit(text: str) -> bool:
    """Whether the server says that there are as many queues, connections or the like as there may be."""
    return _LIMIT_REACHED.search(text) is not None


class Line(Protocol):
    """What a channel asks of its connection."""

    name: str
    frame_max: int
    reply_timeout: float

    @property
    def is_open(self) -> bool: ...

    @property
    def blocked(self) -> str | None: ...

    def abort(self, reason: str) -> None: ...

    def lost(self) -> ConnectionLost: ...

    def forget(self, channel: Channel) -> None: ...


@value
class Published:
    """What became of messages that were published together, by their places among them.

    `nacked` were not accepted; `returned` could not be routed, each with what the server says.
    """

    nacked: Sequence[int]
    returned: Mapping[int, str]


class Channel(abc.ABC):
    """A channel of `line`. `closed` says why there is none any more; None: it is open."""

    def __init__(self, line: Line, requests: Any) -> None:
        self.line = line
        self.number: int = requests.number
        self.closed: OperationalError | None = None
        #: Told each delivery: of consumers, and what `get` brought.
        self.on_arrival: Callable[[Delivered], None] | None = None
        #: Told the tag of a consumer that the server has ended: its queue is gone.
        self.on_cancel: Callable[[str], None] | None = None
        #: Told once, when it is closed.
        self.on_closed: Callable[[], None] | None = None
        self._requests = requests  #: aiormq's channel, whose types say less than it does
        self._loop = asyncio.get_running_loop()
        self._unsettled: dict[int, None] = {}  #: tags of deliveries, the oldest first

    @property
    def is_open(self) -> bool:
        return self.closed is None and self.line.is_open

    # The hot half

    @abc.abstractmethod
    async def publish(self, posts: Sequence[Post]) -> Published:
        """Publish `posts` and return when each is confirmed, in whatever way.

        The message id of a post's properties must be its number, counted from `next_number`: by that it is known among
        those that come back.

        Raises:
            NotConnected: nothing was sent.
            ConnectionLost: some of them may be in the broker.
            Refused: the server closed the channel; some of them may be in the broker.
        """

    @property
    @abc.abstractmethod
    def next_number(self) -> int:
        """The number of what is published next."""

    @property
    @abc.abstractmethod
    def waits_since(self) -> float | None:
        """Loop time from which the oldest confirm or answer is waited for."""

    @abc.abstractmethod
    def get(self, queue: str) -> asyncio.Future[Delivered | None]:
        """Ask for one message of a queue; None: it has none. Several may be asked for. Its errors: as `publish`."""

    @abc.abstractmethod
    def _settle(self, acknowledged: Sequence[Tags], returned: Sequence[Tags]) -> None: ...

    def ack(self, tags: Collection[int]) -> None:
        """Acknowledge deliveries, the oldest of them together."""
        wanted = set(tags)
        oldest = list(itertools.takewhile(wanted.__contains__, self._unsettled))
        through: list[Tags] = [(oldest[-1], True)] if oldest else []
        self._settle([*through, *((tag, False) for tag in wanted.difference(oldest))], ())
        self._forget(wanted)

    def give_back(self, tags: Collection[int]) -> None:
        """Have deliveries queued again, each at its old place."""
        self._settle((), [(tag, False) for tag in sorted(tags)])
        self._forget(tags)

    def give_back_all(self) -> None:
        """Have all that came and was not acknowledged queued again."""
        self._settle((), [(0, True)])
        self._unsettled.clear()

    def _forget(self, tags: Collection[int]) -> None:
        for tag in tags:
            self._unsettled.pop(tag, None)

    def end(self, error: OperationalError) -> None:
        """It is no more."""
        if self.closed is not None:
            return
        self.closed = error
        self.line.forget(self)
        self._end(error)
        if self.on_closed is not None:
            self.on_closed()

    @abc.abstractmethod
    def _end(self, error: OperationalError) -> None:
        """Tell whoever waits."""

    def _gone(self) -> OperationalError:
        """Return the error for what was not begun."""
        return NotConnected(str(self.closed if self.closed is not None else self.line.lost()))

    # Requests: one at a time is under way. Each raises NotConnected (not asked), ConnectionLost (no answer came), and
    # Refused (the server closed the channel).

    async def declare_queue(
        self,
        queue: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
    ) -> None:
        await self._asked(
            self._requests.queue_declare(
                queue,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=dict(arguments or {}),
                timeout=self.line.reply_timeout,
            )
        )

    async def count(self, queue: str) -> int:
        """Return how many messages are ready in a queue, which must exist."""
        reply = await self._asked(self._requests.queue_declare(queue, passive=True, timeout=self.line.reply_timeout))
        return reply.message_count or 0

    async def purge_queue(self, queue: str) -> int:
        """Delete what is ready in a queue, which must exist; return how many."""
        reply = await self._asked(self._requests.queue_purge(queue, timeout=self.line.reply_timeout))
        return reply.message_count or 0

    async def delete_queue(self, queue: str) -> None:
        await self._asked(self._requests.queue_delete(queue, timeout=self.line.reply_timeout))

    async def bind_queue(
        self, queue: str, exchange: str, key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        await self._asked(
            self._requests.queue_bind(
                queue, exchange, key, arguments=dict(arguments or {}), timeout=self.line.reply_timeout
            )
        )

    async def declare_exchange(
        self, exchange: str, kind: str, arguments: Mapping[str, Any] | None = None, *, durable: bool = True
    ) -> None:
        await self._asked(
            self._requests.exchange_declare(
                exchange,
                exchange_type=kind,
                durable=durable,
                arguments=dict(arguments or {}),
                timeout=self.line.reply_timeout,
            )
        )

    async def find_exchange(self, exchange: str) -> None:
        """Return if there is such an exchange."""
        await self._asked(self._requests.exchange_declare(exchange, passive=True, timeout=self.line.reply_timeout))

    async def bind_exchange(self, exchange: str, to: str, key: str) -> None:
        """Have `to` pass on to `exchange` what comes with this key."""
        await self._asked(self._requests.exchange_bind(exchange, to, key, timeout=self.line.reply_timeout))

    async def prefetch(self, count: int) -> None:
        """Have so many at most delivered to each consumer that begins now, and not acknowledged."""
        await self._asked(self._requests.basic_qos(prefetch_count=count, timeout=self.line.reply_timeout))

    async def consume(self, queue: str, tag: str) -> None:
        """Have what is in a queue delivered."""
        await self._asked(
            self._requests.basic_consume(queue, self._consumed, consumer_tag=tag, timeout=self.line.reply_timeout)
        )

    async def cancel(self, tag: str) -> None:
        """Have nothing more delivered to a consumer."""
        await self._asked(self._requests.basic_cancel(tag, timeout=self.line.reply_timeout))

    @abc.abstractmethod
    async def _consumed(self, message: Any) -> None:
        """Take what aiormq delivers."""

    async def close(self) -> None:
        """Close it; what was delivered on it and not settled is queued again."""
        if self.is_open:
            await self._asked(self._requests.close(None, timeout=self.line.reply_timeout))
            self.end(NotConnected(f"{self.line.name}: the channel was closed"))

    async def _asked(self, request: Coroutine[Any, Any, T]) -> T:
        """Return the answer to a request that aiormq makes."""
        if not self.is_open or self.line.blocked is not None:
            request.close()
            raise self._gone() if not self.is_open else NotConnected(self._blocked())
        try:
            return await finish(request, _LAST_WORDS, once_cancelled=True)
        except TimeoutError as exc:
            if self.line.blocked is None:
                self.line.abort(f"no reply for {self.line.reply_timeout:g} s")
            raise ConnectionLost(str(self.closed or self.line.lost())) from exc
        except LIBRARY_ERRORS as exc:
            raise self._meant(exc) from exc
        except ValueError as exc:  # pamqp's own rules for names
            raise OperationalError(f"{self.line.name} can't be asked: {exc}") from exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # aiormq's way to end a request when the connection ends
                raise self._meant(exc) from exc
            raise

    def _blocked(self) -> str:
        return f"{self.line.name} accepts nothing: {self.line.blocked}; free memory or disk there"

    def _meant(self, exc: BaseException) -> OperationalError:
        """Return what an error of the library's means: the server's word for it, or that no answer came."""
        if self.closed is not None:
            return self.closed
        if isinstance(exc, Exception) and (code := _CODES.get(type(exc))) is not None:
            return translated(self.line.name, code, str(exc))
        return self.line.lost() if not self.line.is_open else ConnectionLost(f"{self.line.name}: {exc!r}")
