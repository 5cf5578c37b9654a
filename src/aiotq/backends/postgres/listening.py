"""The connection on which a process hears notifications.

It does nothing else, and is never in a transaction: a listener that holds up the server's queue of notifications would
in the end fail everybody's commits.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

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
        self._has_heard = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._end: psycopg.Error | None = None

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
                    wire.end()
            except OperationalError as exc:
                pauses.lost(exc, loop.time())
            except Exception:  # a defect must not end listening
                logger.exception("listening failed, connecting again")
            self.hears = False
            self._is_decided.set()
            await asyncio.sleep(pauses.next())

    async def _subscribe(self, wire: Wire) -> None:
        """Listen, and find out whether anything comes."""
        wire.on_notify = self._take
        wire.on_end = self._ended
        self._end = None
        self._has_ended.clear()
        self._has_heard.clear()
        try:
            async with asyncio.timeout(self._address.connect_timeout):
                for channel in self._bus.channels:
                    await wire.rows(f'listen "{channel}"'.encode())
                await self._requests.rows(b"select pg_notify($1::text, 'echo')", self._bus.channels[0])
        except TimeoutError as exc:
            raise NotConnected(f"{self._address.shown}: LISTEN was not confirmed") from exc
        except psycopg.Error as exc:
            raise translated(exc, self._address.shown) from exc
        is_heard = await _is_set(self._has_heard, _ECHO)
        if not is_heard and not self._is_decided.is_set():
            logger.warning(
                "%s: no notifications come (a pooler in transaction mode passes none on): consumers look every few "
                "hundred milliseconds instead. Name a direct URL with the option listen=",
                self._address.shown,
            )
        self.hears = is_heard
        self._is_decided.set()
        self._bus.tell_of_gap()

    async def _hear(self, wire: Wire) -> None:
        """Let what comes be handed on; ask a server that is silent whether it is there."""
        while not await _is_set(self._has_ended, QUIET):
            if self._has_heard.is_set():
                self._has_heard.clear()
                continue
            try:
                async with asyncio.timeout(self._address.reply_timeout):
                    await wire.rows(b"select 1")
            except TimeoutError as exc:
                raise NotConnected(f"{self._address.shown}: it is silent") from exc
            except psycopg.Error as exc:
                raise translated(exc, self._address.shown) from exc
        if self._end is not None:
            raise translated(self._end, self._address.shown) from self._end

    def _take(self, channel: str, payload: str) -> None:
        self._has_heard.set()
        if payload != "echo":
            self._bus.take_payload(channel, payload)

    def _ended(self, exc: psycopg.Error) -> None:
        self._end = exc
        self._has_ended.set()


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
