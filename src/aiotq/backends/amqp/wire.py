"""One connection to a RabbitMQ, as aio-pika makes it, and its channels. Making another one is its owner's business."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aiormq
from aio_pika.abc import AbstractConnection
from anyio import to_thread

from ...core.aio import finish
from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address, Endpoint
from .channel import LIBRARY_ERRORS, Channel, translated
from .lane import Lane
from .ordinary import OrdinaryChannel
from .tap import TapConnection

#: Makes a connection: the setting `amqp_connect`.
Connect = Callable[[], Awaitable[AbstractConnection]]

_LARGEST_FRAME: Final = 131_072
#: Heartbeats that may be missed before a connection counts as gone.
_MISSED: Final = 2
#: Seconds that saying good-bye may take.
_GOODBYE: Final = 1.0
_ACCESS_REFUSED: Final = 403


class Wire:
    """A connection once it is made; `closed` is set when it is no more, and `reason` says why.

    With a tap its channels are lanes; of any other connection they are the ordinary ones.
    """

    def __init__(self, name: str, address: Address, connection: AbstractConnection) -> None:
        transport = connection.transport
        if transport is None:
            raise OperationalError(f"{name}: the connection that `amqp_connect` made is not open")
        self.name = name
        self._connection = connection
        # Its channels are made here and not by aio-pika, whose each leaves something behind on the connection.
        self._opener: Any = transport.connection
        self._tap = connection.taps.tap if isinstance(connection, TapConnection) else None
        self._loop = asyncio.get_running_loop()
        self._channels: set[Channel] = set()
        self._opened_at = self._loop.time()
        self.heartbeat = address.heartbeat
        self.reply_timeout = address.reply_timeout
        self.frame_max: int = self._opener.connection_tune.frame_max or _LARGEST_FRAME
        self.server: dict[str, Any] = dict(self._opener.server_properties)
        self.closed = asyncio.Event()
        self.reason = ""
        self._was_blocked = False
        if self._tap is not None:
            self._tap.keeper = self
            if self._tap.is_lost:
                self.gone()
        self._opener.closing.add_done_callback(self._ended)

    @classmethod
    async def open(cls, address: Address, endpoint: Endpoint, title: str) -> Wire:
        """Connect to `endpoint` as `title`, which RabbitMQ's management page shows.

        Raises:
            NotConnected: it can't be reached.
            OperationalError: it refused us.
        """
        name = f"RabbitMQ at {endpoint}"
        context = await to_thread.run_sync(address.ssl_context) if address.tls is not None else None
        connection = TapConnection(
            address.url(endpoint),
            ssl_context=context,
            client_properties={
                "product": "aiotq",
                "platform": f"Python {platform.python_version()}",
                "connection_name": title,
            },
        )
        taps = connection.taps
        try:
            async with asyncio.timeout(address.connect_timeout):
                # Before aiormq is asked to, which logs an error each time that a server is not there.
                await taps.open(endpoint.host, endpoint.port, context)
                await connection.connect()
        except TimeoutError as exc:
            raise NotConnected(f"{name} did not answer within {address.connect_timeout:g} s") from exc
        except (
            *LIBRARY_ERRORS,
            OSError,
            StopAsyncIteration,
        ) as exc:  # the last: aiormq, of a connection that has ended
            if taps.tap is None:
                raise NotConnected(f"{name} can't be reached: {exc}") from exc
            raise _why_it_closed(name, address, taps.tap.refusal, taps.tap.reason, exc) from exc
        finally:
            if connection.transport is None and taps.tap is not None:
                taps.tap.abort("it was given up")
        return cls(name, address, connection)

    @classmethod
    async def made(cls, address: Address, connect: Connect) -> Wire:
        """Return the connection that `connect` makes.

        Raises:
            NotConnected: it could not.
            OperationalError: the server refused us.
        """
        name = f"RabbitMQ ({address.shown}, by amqp_connect)"
        try:
            async with asyncio.timeout(address.connect_timeout):
                return cls(name, address, await connect())
        except aiormq.exceptions.ProbableAuthenticationError as exc:
            raise OperationalError(f"{name} refused the user: {exc}") from exc
        except (*LIBRARY_ERRORS, OSError, TimeoutError, StopAsyncIteration) as exc:
            raise NotConnected(f"{name} can't be connected: {exc!r}") from exc

    @property
    def is_open(self) -> bool:
        return not self.closed.is_set()

    @property
    def blocked(self) -> str | None:
        """Why the server reads nothing that is published here (an alarm of memory or disk); None: it does."""
        return self._tap.blocked if self._tap is not None else None

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
        if not self.is_open:
            raise NotConnected(str(self.lost()))
        if self.blocked is not None:
            raise NotConnected(f"{self.name} accepts nothing: {self.blocked}; free memory or disk there")
        try:
            requests = await finish(self._opened(confirms=confirms), _GOODBYE, once_cancelled=True)
        except TimeoutError as exc:
            self.abort(f"no reply for {self.reply_timeout:g} s")
            raise self.lost() from exc
        except (*LIBRARY_ERRORS, RuntimeError) as exc:
            raise (self.lost() if not self.is_open else ConnectionLost(f"{self.name}: {exc!r}")) from exc
        tap = self._tap
        channel = Lane(self, requests, tap) if tap is not None else OrdinaryChannel(self, requests)
        self._channels.add(channel)
        if not self.is_open:
            channel.end(self.lost())
            raise self.lost()
        return channel

    async def _opened(self, *, confirms: bool) -> Any:
        async with asyncio.timeout(self.reply_timeout):
            return await self._opener.channel(publisher_confirms=confirms)

    def forget(self, channel: Channel) -> None:
        """Have nothing more to do with a channel that has ended."""
        self._channels.discard(channel)

    def lost(self) -> ConnectionLost:
        """Return the error for what was under way when the connection ended."""
        return ConnectionLost(f"{self.name}: the connection was lost ({self.reason})")

    def check(self) -> None:
        """Close if nothing comes, or a reply is overdue. To be called each second."""
        now = self._loop.time()
        tap = self._tap
        if tap is not None and now - tap.heard_at > _MISSED * self.heartbeat:
            self.abort(f"silent for {now - tap.heard_at:.0f} s")
            return
        if self.blocked is not None:
            self._was_blocked = True
            return
        if self._was_blocked:
            self._was_blocked = False
            self._opened_at = now
        waits = [channel.waits_since for channel in self._channels if channel.waits_since is not None]
        advanced_at = max(self._opened_at, tap.advanced_at if tap is not None else 0.0)
        if waits and now - max(min(waits), advanced_at) > self.reply_timeout:
            self.abort(f"no reply for {self.reply_timeout:g} s")

    async def close(self) -> None:
        """Say good-bye, so that the server's log has no complaint, and let go of all that belongs to it."""
        self.reason = self.reason or "it was left"
        try:
            with suppress(*LIBRARY_ERRORS, OSError, TimeoutError):
                await finish(self._connection.close(), _GOODBYE)
        finally:
            self.abort("it was left")

    def abort(self, reason: str) -> None:
        """Close now; whoever waits for a reply gets ConnectionLost."""
        self.reason = self.reason or reason
        if self._tap is not None:
            self._tap.abort(reason)
        self._end()

    def was_blocked(self) -> None:
        """The tap says that the server reads nothing that is published."""
        for channel in self._channels:
            if isinstance(channel, Lane):
                channel.was_blocked()

    def gone(self) -> None:
        """The tap says that the connection is gone."""
        if self._tap is not None:
            self.reason = self.reason or self._tap.reason
        self._end()

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        """It was closed by aiormq: by the server, if there is no tap that would have seen it."""
        error = None if closing.cancelled() else closing.exception()
        self.reason = self.reason or f"it was closed: {error!r}"
        self._end()

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        for channel in list(self._channels):
            channel.end(self.lost())
        self._channels.clear()


def _why_it_closed(
    name: str, address: Address, refusal: tuple[int, str] | None, reason: str, exc: Exception
) -> OperationalError:
    """Return the error for a connection that was not made although the server answers."""
    if refusal is not None and refusal[0] == _ACCESS_REFUSED:
        return OperationalError(
            f"{name} refused user {address.username!r}: wrong name or password, or (as for guest) not allowed from "
            f"another machine ({refusal[1]})"
        )
    if refusal is not None:
        return translated(name, *refusal)
    if isinstance(exc, aiormq.exceptions.AuthenticationError):
        return OperationalError(f"{name} does not let anybody log in by {address.login}: it has {exc.args[0]}")
    wants = address.tls is not None and "ssl_certfile" not in address.tls
    hint = "; it may want a certificate of its clients (ssl_certfile, ssl_keyfile)" if wants else ""
    return NotConnected(f"{name} closed the connection at once{hint}: {reason or exc}")
