"""The connection on which a process hears notifications.

It does nothing else, and is never in a transaction: a listener that holds up the server's queue of notifications would
in the end fail everybody's commits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import psycopg

from ...exceptions import NotConnected, OperationalError
from .address import Address
from .bus import PostgresBus
from .errors import translated
from .lane import QUIET, Lane, Pauses
from .wire import Wire, open_wire

logger = logging.getLogger("aiotq.postgres")

#: Seconds in which the first notification is to come back; then none do.
_ECHO: Final = 2.0


class Listener:
    """Listens to the channels of `bus`, on a connection that is kept open."""

    def __init__(self, address: Address, bus: PostgresBus, requests: Lane) -> None:
        self._address = address
        self._bus = bus
        self._requests = requests
        self._is_decided = asyncio.Event()
        #: Whether notifications come: a pooler may take LISTEN, and pass none of them on.
        self.hears = False
        self.wire: Wire | None = None

    async def opened(self) -> None:
        """Return when notifications come, or it is known that they don't."""
        await self._is_decided.wait()

    async def keep(self) -> None:
        """Listen, on new connections when one is lost, until cancelled."""
        loop = asyncio.get_running_loop()
        pauses = Pauses(f"{self._address.shown} (connection for notifications)")
        while True:
            try:
                wire = self.wire = await open_wire(self._address, listens=True)
                try:
                    await self._subscribe(wire)
                    pauses.opened(loop.time())
                    await self._hear(wire)
                finally:
                    wire.pgconn.finish()
            except OperationalError as exc:
                pauses.lost(exc, loop.time())
            except Exception:  # a defect must not end listening
                logger.exception("listening failed, connecting again")
            self.hears = False
            self._is_decided.set()
            await asyncio.sleep(pauses.next())

    async def _subscribe(self, wire: Wire) -> None:
        """Listen, and find out whether anything comes."""
        try:
            async with asyncio.timeout(self._address.connect_timeout):
                for channel in self._bus.channels:
                    await wire.execute(f'listen "{channel}"'.encode())
                await self._requests.run(self._echo())
        except TimeoutError as exc:
            raise NotConnected(f"{self._address.shown}: LISTEN was not confirmed") from exc
        except psycopg.Error as exc:
            raise translated(exc, self._address.shown) from exc
        is_heard = await self._take(wire, _ECHO, 1)
        if not is_heard and not self._is_decided.is_set():
            logger.warning(
                "%s: no notifications come (a pooler in transaction mode passes none on): consumers look every few "
                "hundred milliseconds instead. Name a direct URL with the option listen=",
                self._address.shown,
            )
        self.hears = is_heard
        self._is_decided.set()
        self._bus.tell_of_gap()

    def _echo(self) -> Callable[[Wire], Awaitable[Any]]:
        async def tell(wire: Wire) -> None:
            await wire.execute(b"select pg_notify($1::text, 'echo')", (self._bus.channels[0],))

        return tell

    async def _hear(self, wire: Wire) -> None:
        """Hand on what comes; ask a server that is silent whether it is there."""
        while True:
            if not await self._take(wire, QUIET, None):
                try:
                    async with asyncio.timeout(self._address.reply_timeout):
                        await wire.execute(b"select 1")
                except TimeoutError as exc:
                    raise NotConnected(f"{self._address.shown}: it is silent") from exc
                except psycopg.Error as exc:
                    raise translated(exc, self._address.shown) from exc

    async def _take(self, wire: Wire, seconds: float, count: int | None) -> bool:
        """Hand on what comes within `seconds`; return whether anything did."""
        came = False
        try:
            async with aclosing(wire.notifies(timeout=seconds, stop_after=count)) as notifications:
                async for notification in notifications:
                    came = True
                    if notification.payload != "echo":
                        self._bus.take_payload(notification.channel, notification.payload)
        except psycopg.Error as exc:
            raise translated(exc, self._address.shown) from exc
        return came
