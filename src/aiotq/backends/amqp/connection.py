"""A connection to RabbitMQ that is kept: made anew when it ends, for ever, with pauses that grow and jitter (P7)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Self

from ...core.aio import Service
from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address, Endpoint
from .channel import Channel
from .wire import Connect, Wire

logger = logging.getLogger("aiotq.amqp")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
#: Seconds after which a connection is thought to be of use.
_SETTLED: Final = 3.0
#: Seconds between looks at a connection: silence, replies overdue.
_CHECK: Final = 1.0
#: Seconds that whoever needs the connection waits for it to be there again before it fails.
_PATIENCE: Final = 1.0
#: What the server must at least be: the first that dead-letters from quorum queues at least once.
_OLDEST: Final = (3, 10)


class AmqpClient:
    """One connection, kept open; an async context manager. `title` names it in RabbitMQ's management page.

    `connect` makes it, each time that one is needed, in place of the address.
    """

    def __init__(self, address: Address, title: str, connect: Connect | None = None) -> None:
        self.address = address
        self._connect_to = connect
        self.title = title
        self._wire: Wire | None = None
        self._is_up = asyncio.Event()
        self._last_error: OperationalError | None = None
        self._endpoints = self._round()
        #: Called when there is another connection.
        self.on_connected: list[Callable[[], None]] = []
        self._service: Service[None] = Service(self._main, "aiotq.amqp")

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            NotConnected: it can't be reached; worth trying again.
            OperationalError: it refused us, or is too old.
        """
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._service.stop()

    def another(self, title: str) -> AmqpClient:
        """Return a client for a connection of its own to the same place."""
        return AmqpClient(self.address, title, self._connect_to)

    async def wire(self) -> Wire:
        """Return the connection, waiting a moment for it.

        Raises:
            NotConnected: there is none.
        """
        wire = self._wire
        if wire is not None and wire.is_open:
            return wire
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self._wire is None or not self._wire.is_open:
                    self._is_up.clear()
                    await self._is_up.wait()
        if self._wire is None or not self._wire.is_open:
            raise NotConnected(str(self._last_error or f"{self.address.shown}: there is no connection"))
        return self._wire

    def abort(self, reason: str) -> None:
        """Close the connection, of which something is wrong; another one is made."""
        if self._wire is not None:
            self._wire.abort(reason)

    def _round(self) -> Iterator[Endpoint]:
        while True:
            yield from self.address.endpoints

    async def _connect(self) -> None:
        """Try each server once, beginning with the one after the last that was tried."""
        wire = await self._made()
        if wire.version and wire.version < _OLDEST:
            version = wire.server.get("version")
            await wire.close()
            raise OperationalError(f"{wire.name} is RabbitMQ {version}: aiotq needs 3.10 or newer")
        self._wire = wire
        self._is_up.set()
        for callback in tuple(self.on_connected):
            callback()

    async def _made(self) -> Wire:
        if self._connect_to is not None:
            return await Wire.made(self.address, self._connect_to)
        for _ in self.address.endpoints[1:]:
            with suppress(NotConnected):
                return await Wire.open(self.address, next(self._endpoints), self.title)
        return await Wire.open(self.address, next(self._endpoints), self.title)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        try:
            await self._connect()
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep(), name=f"aiotq.amqp.{self.title}")
                ready(None)
                await stopping.wait()
                keeping.cancel()
        finally:
            if self._wire is not None:
                await self._wire.close()

    async def _keep(self) -> None:
        """Watch the connection and make a new one when it ends, until cancelled.

        Each change is said once: what fails for hours, or connects and is thrown out again, does not fill the log.
        """
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        said: set[str] = set()
        is_told = False
        shown = f"{self.address.shown} ({self.title})"
        while True:
            wire = self._wire
            if wire is not None and wire.is_open:
                began = loop.time()
                await _watch(wire)
                await wire.close()
                if loop.time() - began > _SETTLED:
                    pause = _FIRST_PAUSE
                    said.clear()
                self._last_error = NotConnected(f"{self.address.shown}: the connection was lost ({wire.reason})")
                is_told = _tell(said, f"{shown} was lost, connecting again: %s", wire.reason) or is_told
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                await self._connect()
            except OperationalError as exc:
                self._last_error = exc
                is_told = _tell(said, f"{shown} can't be opened, trying again: %s", exc) or is_told
            except Exception:  # a defect must not end what everything depends on
                logger.exception("%s can't be opened, trying again", shown)
            else:
                if is_told:
                    is_told = False
                    logger.warning("%s is open again", shown)


def _tell(said: set[str], message: str, reason: object) -> bool:
    if str(reason) in said:
        return False
    said.add(str(reason))
    logger.warning(message, reason)
    return True


async def _watch(wire: Wire) -> None:
    """Return when `wire` is closed; see that its server is heard of until then."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHECK):
                await wire.closed.wait()
                return
        wire.check()


class KeptChannel:
    """A channel of a client that is opened again whenever the one before is gone."""

    def __init__(self, client: AmqpClient, *, confirms: bool = False) -> None:
        self._client = client
        self._confirms = confirms
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        #: Grows with each channel: what was true on the one before may not be on this one.
        self.generation = 0

    async def channel(self) -> Channel:
        """Return the open channel.

        Raises:
            NotConnected: there is no connection.
        """
        if self._channel is not None and self._channel.is_open:
            return self._channel
        async with self._opening:
            if self._channel is None or not self._channel.is_open:
                wire = await self._client.wire()
                try:
                    self._channel = await wire.channel(confirms=self._confirms)
                except ConnectionLost as exc:
                    raise NotConnected(str(exc)) from exc
                self.generation += 1
        return self._channel
