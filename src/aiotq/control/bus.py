"""The contract of a bus: small messages to one process or to all, at most once, bounded, with nothing left behind.

A message may be lost: the receiver then reads what it missed from the records, the ledger or the broker.
Results, notices of revocations and wake-ups share it, each under a topic of its own.
"""

from __future__ import annotations

import abc
import logging
import re
from collections.abc import Callable
from typing import Any, Final, Self

from ..exceptions import CallError, MalformedMessage, PayloadTooLarge

logger = logging.getLogger("aiotq.bus")

#: Bytes of a payload: what fits into one datagram, and into one publication that nobody minds.
MAX_PAYLOAD: Final = 65_536
_TOPIC: Final = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_LONGEST_TOPIC: Final = 32

#: Told the payload of a message, in the loop that entered the bus. It returns at once.
Handler = Callable[[bytes], None]


class Bus(abc.ABC):
    """One process's place among those that tell each other things. Used as an async context manager.

    Messages of one sender come in the order in which they were sent. A hearer that does not read costs nobody more than
    a bounded amount of memory, and holds nobody up: what is too much is dropped, and counted where that is noticed.
    """

    def __init__(self) -> None:
        self.heard = 0  #: messages that came and were handed to their handlers
        self.dropped = 0  #: messages that a hearer was not there to read, or read too slowly for, as far as is known
        self.malformed = 0  #: what came and was no message
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._gap_handlers: tuple[Callable[[], None], ...] = ()

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """This process, as others tell it things. It stays the same when connections are made anew."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def tell(self, address: str, topic: str, payload: bytes) -> None:
        """Send `payload` to the process at `address`; one that is not there (any more) gets nothing, and costs nothing.

        Raises:
            PayloadTooLarge: nothing was sent; `.size` and `.limit` in bytes.
            CallError: `topic` is none.
            ConnectionLost: it may have been sent.
        """
        check(topic, payload)
        await self._tell(address, topic, payload)

    async def tell_all(self, topic: str, payload: bytes) -> None:
        """Send `payload` to all processes, this one too; raises as `tell`."""
        check(topic, payload)
        await self._tell_all(topic, payload)

    def hear(self, topic: str, handler: Handler, on_missed: Callable[[], None] | None = None) -> Callable[[], None]:
        """Call `handler` with each message of `topic`; return a function that ends this.

        `on_missed` is called when messages may have been missed: a connection was made anew, a buffer ran over.
        """
        check(topic, b"")
        self._handlers[topic] = (*self._handlers.get(topic, ()), handler)
        if on_missed is not None:
            self._gap_handlers = (*self._gap_handlers, on_missed)

        def end() -> None:
            self._handlers[topic] = tuple(each for each in self._handlers[topic] if each != handler)
            self._gap_handlers = tuple(each for each in self._gap_handlers if each != on_missed)

        return end

    @abc.abstractmethod
    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        """As `tell`, of what can be sent."""

    @abc.abstractmethod
    async def _tell_all(self, topic: str, payload: bytes) -> None:
        """As `tell_all`, of what can be sent."""

    def take_frame(self, data: bytes) -> None:
        """Hand on a message that came as bytes; what is none is counted."""
        try:
            topic, payload = unframe(data)
        except MalformedMessage as exc:
            self.malformed += 1
            if self.malformed == 1:
                logger.warning("something on the bus is no message (further ones are counted): %s", exc)
            return
        self.take(topic, payload)

    def take(self, topic: str, payload: Any) -> None:
        """Hand on what came. One handler that fails must not keep the others from hearing."""
        self.heard += 1
        for handler in self._handlers.get(topic, ()):
            try:
                handler(payload)
            except Exception:  # a handler has a defect, or got a message that it can't read
                logger.exception("a message on the bus could not be used (topic %s)", topic)

    def tell_of_gap(self) -> None:
        """Have all know that messages may have been missed."""
        for on_missed in self._gap_handlers:
            try:
                on_missed()
            except Exception:  # as above
                logger.exception("looking for what was missed on the bus failed")


def frame(topic: str, payload: bytes) -> bytes:
    """Return a message as bytes: the topic, a line feed, the payload."""
    return b"%b\n%b" % (topic.encode(), payload)


def unframe(data: bytes) -> tuple[str, bytes]:
    """Return topic and payload of a message.

    Raises:
        MalformedMessage: it is none.
    """
    head, separator, payload = data.partition(b"\n")
    topic = head[: _LONGEST_TOPIC + 1].decode("ascii", "replace")
    if not separator or not _TOPIC.fullmatch(topic):
        raise MalformedMessage(f"it begins with no topic: {data[:40]!r}")
    return topic, payload


def check(topic: str, payload: bytes) -> None:
    """See that a message can be sent; raises as `Bus.tell`."""
    if not _TOPIC.fullmatch(topic):
        raise CallError(f"a topic is 1 to {_LONGEST_TOPIC} of a-z, 0-9, '.', '_' and '-', a letter first: {topic!r}")
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(topic, len(payload), MAX_PAYLOAD)
