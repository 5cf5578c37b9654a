"""A connection of aio-pika whose hot frames don't pass through it.

aio-pika owns the connection: login, tuning, heartbeats, opening and closing of channels, every request. aiormq, below
it, reads from an `asyncio.StreamReader` that its public `TransportFactory` makes; here that is a `Tap`, which walks the
frames as they come. Deliveries, confirms and what is returned, on a channel that has a lane (`lane.py`), go there at
once; aiormq gets all others. Nobody else publishes or consumes on a channel that has a lane.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, Final, Protocol

import aio_pika
import aiormq

from .frames import (
    BLOCKED,
    CLOSE_OK_FRAME,
    CONNECTION_CLOSE,
    END,
    FRAME,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    OVERHEAD,
    UNBLOCKED,
    close_of,
    method_of,
    text_of,
)

#: Bytes of one frame. RabbitMQ keeps what was agreed, but for headers to which it has added something itself.
_LARGEST_FRAME: Final = 16 * 1024 * 1024
#: Seconds between signs of life for aiormq, which sees nothing of what lanes take and would think the peer dead.
_SIGN_OF_LIFE: Final = 1.0


class Takes(Protocol):
    """What a lane is for the tap."""

    def takes(self, kind: int, frames: bytes, at: int, end: int) -> bool:
        """Take the frame whose payload is `frames[at:end]`, or leave it to aiormq.

        Raises:
            ValueError, struct.error, IndexError: it is no such frame.
        """
        ...


class Keeper(Protocol):
    """Who looks after a connection once it is made: it closes what the tap says is gone."""

    def gone(self) -> None: ...

    def was_blocked(self) -> None: ...


class Tap(asyncio.StreamReader):
    """Where a connection's bytes come in. Without a `keeper` aiormq is told of all that happens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._now = loop.time
        self.lanes: dict[int, Takes] = {}
        self.keeper: Keeper | None = None
        self.transport: asyncio.Transport | None = None
        self.is_lost = False
        self.reason = ""  #: why it is lost
        self.refusal: tuple[int, str] | None = None  #: code and text with which the server closed the connection
        self.blocked: str | None = None  #: why the server reads nothing that is published (an alarm); None: it does
        self.heard_at = loop.time()
        self.advanced_at = loop.time()  #: when something else than a heartbeat came
        self._told_at = 0.0
        self._waiting: list[bytes] = []  #: the beginning of a frame, in the pieces in which it came
        self._size = 0  #: of all of these
        self._wanted = 0  #: bytes that are needed before it is worth looking

    def write(self, frames: bytes) -> None:
        """Write behind whatever was written before."""
        if self.transport is not None and not self.is_lost:
            self.transport.write(frames)

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        self.reason = self.reason or reason
        if self.transport is not None:
            self.transport.abort()
        self._lose(None)

    def feed_data(self, data: Any) -> None:
        """Take the bytes that came from the network."""
        now = self.heard_at = self._now()
        if self._waiting:
            self._waiting.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return
            data = b"".join(self._waiting)
            self._waiting = []
        try:
            kept = self._walked(data, now)
        except (ValueError, struct.error, IndexError) as exc:
            self.abort(f"it does not speak AMQP 0-9-1: {exc}")
            return
        if kept:
            super().feed_data(b"".join(kept))

    def _walked(self, data: bytes, now: float) -> list[bytes]:
        """Hand out all whole frames, keep the rest for later, and return those that are aiormq's."""
        at, size = 0, len(data)
        kept: list[bytes] = []
        took = False
        lanes = self.lanes
        while size - at >= OVERHEAD:
            kind, number, length = FRAME.unpack_from(data, at)
            if not 0 < kind <= HEARTBEAT or length > _LARGEST_FRAME:
                raise ValueError(f"frame of type {kind} and {length} bytes")
            end = at + OVERHEAD + length
            if end > size:
                self._wanted = end - at
                break
            if data[end - 1] != END:
                raise ValueError("frame without an end")
            lane = lanes.get(number)
            if lane is not None and lane.takes(kind, data, at + FRAME.size, end - 1):
                took = True
            elif number or kind != METHOD or not self._noticed(data, at + FRAME.size):
                kept.append(data[at:end])
            if kind != HEARTBEAT:
                self.advanced_at = now
            at = end
        else:
            self._wanted = OVERHEAD
        if at < size:
            self._waiting = [data[at:]]
            self._size = size - at
        if took and now - self._told_at > _SIGN_OF_LIFE:
            self._told_at = now
            kept.append(HEARTBEAT_FRAME)
        return kept

    def _noticed(self, frames: bytes, at: int) -> bool:
        """Take notice of a method that belongs to no channel; whether aiormq is not to hear of it."""
        which = method_of(frames, at)
        if which == CONNECTION_CLOSE:
            self.refusal = close_of(frames, at)
            self.reason = self.reason or f"{self.refusal[0]} {self.refusal[1]}"
            if self.keeper is None:
                return False
            self.write(CLOSE_OK_FRAME)
            if self.transport is not None:
                self.transport.close()
            self._lose(None)
            return True
        if which == BLOCKED:
            self.blocked = text_of(frames, at) or "an alarm"
            if self.keeper is not None:
                self.keeper.was_blocked()
        elif which == UNBLOCKED:
            self.blocked = None
        return False

    def feed_eof(self) -> None:
        """Take the end of the connection."""
        self.reason = self.reason or "the server closed it"
        self._lose(None)

    def set_exception(self, exc: BaseException) -> None:
        """Take the end of the connection, which was cut."""
        self.reason = self.reason or f"it was cut: {exc}"
        self._lose(exc)

    def _lose(self, exc: BaseException | None) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self.keeper is not None:  # who closes it; told by this reader, aiormq logs a traceback each time
            if self.transport is not None and not self.transport.is_closing():
                self.transport.abort()  # the server's half of it is closed
            self.keeper.gone()
        elif isinstance(exc, Exception):
            super().set_exception(exc)
        else:
            super().feed_eof()


class TapFactory(aiormq.TransportFactory):
    """Makes the two ends of a connection as aiormq wants them, and keeps the tap.

    What was opened before is used; else a connection to the URL of the first is made.
    """

    def __init__(self) -> None:
        self.tap: Tap | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, host: str, port: int, context: ssl.SSLContext | None, **kwargs: Any) -> Tap:
        """Connect to a server.

        Raises:
            OSError: it can't be reached, or its certificate is not to be trusted.
        """
        loop = asyncio.get_running_loop()
        tap = Tap(loop)
        protocol = asyncio.StreamReaderProtocol(tap, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=context, **kwargs)
        tap.transport = transport
        self.tap, self._writer = tap, asyncio.StreamWriter(transport, protocol, tap, loop)
        return tap

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return reader and writer of the connection; aiormq calls this once."""
        certificates = kwargs.pop("ssl_context_provider")
        tap, writer = self.tap, self._writer
        if tap is None or writer is None:
            context = await certificates.get_context() if url.scheme == "amqps" else None
            tap = await self.open(url.host, url.port, context, **kwargs)
            writer = self._writer
            assert writer is not None
        return tap, writer


class TapConnection(aio_pika.Connection):
    """A connection for `amqp_connect`: `await aio_pika.connect(url, connection_class=TapConnection)`.

    To anybody else it is `aio_pika.Connection`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taps = TapFactory()
        self.kwargs["transport_factory"] = self.taps

    def __del__(self) -> None:
        if self.transport is not None:  # else there is nothing to close, and maybe no loop to do it in
            super().__del__()
