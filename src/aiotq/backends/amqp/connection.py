"""A connection to RabbitMQ that is kept open, and channels of it that are (P7)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from ...core.aio import Service
from ...core.net.kept import Kept
from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address
from .channel import Channel
from .wire import Connect, Wire

logger = logging.getLogger("aiotq.amqp")

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
        self._endpoints = itertools.cycle(address.endpoints)
        self._kept = Kept(address.shown, title, logger, self._connect, Wire.check, Wire.close)
        #: Called when there is another connection.
        self.on_connected = self._kept.on_open
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
        return await self._kept.get()

    def abort(self, reason: str) -> None:
        """Close the connection, of which something is wrong; another one is made."""
        if self._kept.wire is not None:
            self._kept.wire.abort(reason)

    async def _connect(self) -> Wire:
        """Try each server once, beginning with the one after the last that was tried."""
        wire = await self._made()
        if wire.version and wire.version < _OLDEST:
            version = wire.server.get("version")
            await wire.close()
            raise OperationalError(f"{wire.name} is RabbitMQ {version}: aiotq needs 3.10 or newer")
        return wire

    async def _made(self) -> Wire:
        if self._connect_to is not None:
            return await Wire.made(self.address, self._connect_to)
        for _ in self.address.endpoints[1:]:
            with suppress(NotConnected):
                return await Wire.open(self.address, next(self._endpoints), self.title)
        return await Wire.open(self.address, next(self._endpoints), self.title)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        try:
            await self._kept.open()
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._kept.keep(), name=f"aiotq.amqp.{self.title}")
                ready(None)
                await stopping.wait()
                keeping.cancel()
        finally:
            if self._kept.wire is not None:
                await self._kept.wire.close()


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
