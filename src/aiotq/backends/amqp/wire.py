"""One connection to a RabbitMQ: frames in and out, channels, heartbeats. Making another one is its owner's business.

Own code, where aiormq would do: there each published message is two tasks and a lock, each delivery passes two bounded
queues, and one request at a time is under way on a channel (see `docs/decisions/0014-own-amqp-connection.md`). Source:
"AMQP 0-9-1 Complete Reference" and RabbitMQ's extensions to it.
"""

from __future__ import annotations

import asyncio
import platform
import struct
from collections import deque
from typing import Any, Final, cast

from anyio import to_thread

from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address, Endpoint
from .channel import Channel, translated
from .frames import BODY, FRAME, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, PROTOCOL, method_of, pamqp

_END: Final = 0xCE
_CONNECTION: Final = 10
_LARGEST_FRAME: Final = 131_072
_MOST_CHANNELS: Final = 2047
#: Heartbeats that may be missed before a connection counts as gone.
_MISSED: Final = 2


class Wire(asyncio.Protocol):
    """A connection once it is made; `closed` is set when it is no more, and `reason` says why."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._greeting: deque[asyncio.Future[Any]] = deque()
        self._channels: dict[int, Channel] = {}
        self._numbers = 0
        self._pamqp = pamqp("commands")
        self._marshal = pamqp("frame").marshal
        self._unmarshal = pamqp("frame").unmarshal
        self._is_tuned = False
        self._wrote_at = 0.0
        self.heartbeat = address.heartbeat
        self.frame_max = _LARGEST_FRAME
        self.closed = asyncio.Event()
        self.reason = ""
        self.refusal: OperationalError | None = None  #: why the server closed it
        #: Why the server reads nothing that is published here (an alarm of memory or disk); None: it does.
        self.blocked: str | None = None
        self.blocking = asyncio.Event()  #: set while it is blocked
        self.server: dict[str, Any] = {}
        self.heard_at = self._loop.time()
        self.advanced_at = self._loop.time()  #: when something else than a heartbeat came

    @classmethod
    async def open(cls, address: Address, endpoint: Endpoint, title: str) -> Wire:
        """Connect to `endpoint` as `title`, which RabbitMQ's management page shows.

        Raises:
            NotConnected: it can't be reached.
            OperationalError: it refused us.
        """
        loop = asyncio.get_running_loop()
        context = await to_thread.run_sync(address.ssl_context) if address.tls is not None else None
        wire = cls(f"RabbitMQ at {endpoint}", address)
        try:
            async with asyncio.timeout(address.connect_timeout):
                await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=context)
                await wire._introduce(title)
        except TimeoutError as exc:
            wire.abort("it did not answer")
            raise NotConnected(f"{wire.name} did not answer within {address.connect_timeout:g} s") from exc
        except OSError as exc:
            wire.abort("it can't be reached")
            raise NotConnected(f"{wire.name} can't be reached: {exc}") from exc
        except ConnectionLost as exc:
            raise wire._why_it_closed(exc) from exc
        except BaseException:
            wire.abort("the greeting failed")
            raise
        return wire

    def _why_it_closed(self, lost: ConnectionLost) -> OperationalError:
        if self.refusal is not None:
            return self.refusal
        if self.server and not self._is_tuned:
            return OperationalError(
                f"{self.name} refused user {self._address.username!r}: wrong name or password, or (as for guest) not "
                "allowed from another machine"
            )
        wants = self._address.tls is not None and "ssl_certfile" not in self._address.tls
        hint = "; it may want a certificate of its clients (ssl_certfile, ssl_keyfile)" if wants else ""
        return NotConnected(f"{self.name} closed the connection at once{hint}: {self.reason or lost}")

    async def _introduce(self, title: str) -> None:
        connection = self._pamqp.Connection
        start = self._next_greeting()
        self.write(PROTOCOL)
        self.server = (await start).server_properties
        tune = self._next_greeting()
        user, password = self._address.username, self._address.password
        start_ok = connection.StartOk(
            client_properties={
                "product": "aiotq",
                "platform": f"Python {platform.python_version()}",
                "connection_name": title,
                "capabilities": {
                    "publisher_confirms": True,
                    "consumer_cancel_notify": True,
                    "basic.nack": True,
                    "connection.blocked": True,
                    "authentication_failure_close": True,
                },
            },
            mechanism="PLAIN",
            response=f"\0{user}\0{password}",
            locale="en_US",
        )
        self.write(self._marshal(start_ok, 0))
        tuned = await tune
        self._is_tuned = True
        self.frame_max = min(tuned.frame_max or _LARGEST_FRAME, _LARGEST_FRAME)
        opened = self._next_greeting()
        tune_ok = connection.TuneOk(
            channel_max=min(tuned.channel_max or _MOST_CHANNELS, _MOST_CHANNELS),
            frame_max=self.frame_max,
            heartbeat=self.heartbeat,
        )
        vhost = connection.Open(virtual_host=self._address.vhost)
        self.write(self._marshal(tune_ok, 0) + self._marshal(vhost, 0))
        await opened

    def _next_greeting(self) -> asyncio.Future[Any]:
        if not self.is_open:
            raise NotConnected(f"{self.name}: {self.reason}")
        self._greeting.append(self._loop.create_future())
        return self._greeting[-1]

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self.closed.is_set()

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, as far as it consists of numbers."""
        given = self.server.get("version", "")
        return tuple(int(part) for part in str(given).split(".") if part.isdecimal())

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Return a new channel; with `confirms` on everything that is published on it.

        Raises:
            ConnectionLost: the connection ended.
        """
        number = self._numbers + 1
        while number in self._channels:
            number = number % _MOST_CHANNELS + 1
        self._numbers = number % _MOST_CHANNELS
        channel = self._channels[number] = Channel(self, number)
        replies = [channel.request(self._pamqp.Channel.Open())]
        if confirms:
            replies.append(channel.request(self._pamqp.Confirm.Select()))
        for reply in replies:
            await reply
        return channel

    def request(self, channel: int, frame: Any) -> None:
        """Send a method."""
        self.write(self._marshal(frame, channel))

    def write(self, frames: bytes) -> None:
        if self._transport is not None and not self.closed.is_set():
            self._wrote_at = self._loop.time()
            self._transport.write(frames)

    def lost(self) -> ConnectionLost:
        """Return the error for what was under way when the connection ended."""
        return ConnectionLost(f"{self.name}: the connection was lost ({self.reason})")

    def check(self) -> None:
        """Send a heartbeat if one is due; close if nothing comes, or a reply is overdue. To be called each second."""
        now = self._loop.time()
        if now - self.heard_at > _MISSED * self.heartbeat:
            self.abort(f"silent for {now - self.heard_at:.0f} s")
            return
        if now - self._wrote_at >= self.heartbeat / 2:
            self.write(HEARTBEAT_FRAME)
        if self.blocked is not None:
            return
        waits = [channel.waits_since for channel in self._channels.values() if channel.waits_since is not None]
        if waits and now - max(min(waits), self.advanced_at) > self._address.reply_timeout:
            self.abort(f"no reply for {self._address.reply_timeout:g} s")

    async def close(self) -> None:
        """Say good-bye, so that the server's log has no complaint; at most a second."""
        if self.is_open:
            self.write(self._marshal(self._pamqp.Connection.Close(200, "bye", 0, 0), 0))
            try:
                async with asyncio.timeout(1.0):
                    await self.closed.wait()
            except TimeoutError:
                pass
            finally:
                self.abort("it was left")

    def abort(self, reason: str) -> None:
        """Close now; whoever waits for a reply gets ConnectionLost."""
        if not self.closed.is_set():
            self.reason = reason
            if self._transport is not None:
                self._transport.abort()
            self._end()

    def forget(self, number: int) -> None:
        """Let a channel's number be used again."""
        self._channels.pop(number, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = self.reason or (f"it was cut: {exc}" if exc is not None else "the server closed it")
        self._end()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        try:
            while size - at >= FRAME.size + 1:
                kind, number, length = FRAME.unpack_from(buffer, at)
                if kind > HEARTBEAT or length > self.frame_max:
                    raise ValueError(f"frame of type {kind} and {length} bytes")
                end = at + FRAME.size + length
                if size <= end:
                    break
                if buffer[end] != _END:
                    raise ValueError("frame without an end")
                if kind != HEARTBEAT:
                    self.advanced_at = self.heard_at
                    self._frame(kind, number, bytes(buffer[at + FRAME.size : end]))
                at = end + 1
        except (ValueError, struct.error, IndexError) as exc:
            self.abort(f"it does not speak AMQP 0-9-1: {exc}")
            return
        if at:
            del buffer[:at]

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if number == 0:
            self._for_us(payload)
            return
        channel = self._channels.get(number)
        if channel is None:
            return  # it was closed meanwhile
        if kind == METHOD:
            channel.method(method_of(payload), payload)
        elif kind == HEADER:
            channel.header(payload)
        elif kind == BODY:
            channel.content(payload)

    def decoded(self, number: int, payload: bytes) -> Any:
        """Return the method in `payload`, as pamqp names it.

        Raises:
            ValueError: there is no such method, or it is cut off.
        """
        framed = FRAME.pack(METHOD, number, len(payload)) + payload + b"\xce"
        try:
            return self._unmarshal(framed)[2]
        except (pamqp("exceptions").PAMQPException, LookupError) as exc:
            raise ValueError(f"method {method_of(payload)}: {exc}") from exc

    def _for_us(self, payload: bytes) -> None:
        """Read what belongs to no channel."""
        if method_of(payload)[0] != _CONNECTION:
            raise ValueError(f"method {method_of(payload)} on channel 0")
        frame = self.decoded(0, payload)
        connection = self._pamqp.Connection
        if isinstance(frame, connection.Close):
            self.write(self._marshal(connection.CloseOk(), 0))
            self.refusal = translated(self.name, frame.reply_code, frame.reply_text)
            self.abort(f"{frame.reply_code} {frame.reply_text}")
        elif isinstance(frame, connection.CloseOk):
            self.abort("it was left")
        elif isinstance(frame, connection.Blocked):
            self.blocked = str(frame.reason or "an alarm")
            self.blocking.set()
            for channel in self._channels.values():
                channel.was_blocked()
        elif isinstance(frame, connection.Unblocked):
            self.blocked = None
            self.blocking.clear()
            self.advanced_at = self._loop.time()
        elif self._greeting:
            waiting = self._greeting.popleft()
            if not waiting.done():
                waiting.set_result(frame)

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        for channel in list(self._channels.values()):
            channel.end(self.lost())
        self._channels.clear()
        for waiting in self._greeting:
            if not waiting.done():
                waiting.set_exception(self.refusal or self.lost())
                waiting.exception()  # retrieved: who asked may be gone
