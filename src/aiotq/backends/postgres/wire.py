"""Connections of psycopg that end in time: interrupted, they are closed, and none waits for a silent server."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any, Final, TypeVar

import orjson
import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.raw_cursor import AsyncRawCursor, RawCursor
from psycopg.types.json import set_json_loads

from ...exceptions import NotConnected
from .address import Address
from .errors import not_opened

T = TypeVar("T")


#: Seconds after which psycopg looks at a socket that nothing was heard from: the loop tells it earlier.
_LOOK_EVERY: Final = 60.0


class Wire(psycopg.AsyncConnection[Any]):
    """A connection of the loop's. What was interrupted on it may have been done: it is closed."""

    async def wait(self, gen: PQGen[T], interval: float = _LOOK_EVERY, timeout: float | None = None) -> T:
        try:
            # Its own default is 0: to look again and again, without a pause.
            return await waiting.wait_async(gen, self.pgconn.socket, interval=_LOOK_EVERY, timeout=timeout)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class BlockingWire(psycopg.Connection[Any]):
    """A connection of a thread's, which waits until `deadline` (monotonic time)."""

    deadline: float = 0.0

    def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        try:
            with selectors.DefaultSelector() as selector:
                wanted = next(gen)
                while True:
                    selector.register(self.pgconn.socket, wanted)
                    ready = selector.select(max(0.0, self.deadline - time.monotonic()))
                    selector.unregister(self.pgconn.socket)
                    if not ready:
                        self.pgconn.finish()
                        raise psycopg.OperationalError("no answer in time")
                    wanted = gen.send(ready[0][1])
        except StopIteration as end:
            value: T = end.value
            return value


async def open_wire(address: Address, *, listens: bool = False) -> Wire:
    """Connect.

    Raises:
        NotConnected: not now.
        OperationalError: we are refused.
    """
    conninfo = address.listen_conninfo if listens and address.listen_conninfo is not None else address.conninfo
    hosts = conninfo.count(",") + 1
    try:
        async with asyncio.timeout(address.connect_timeout * hosts + 1):
            wire = await Wire.connect(conninfo, autocommit=True, prepare_threshold=None, cursor_factory=AsyncRawCursor)
    except TimeoutError as exc:
        raise NotConnected(f"{address.shown}: the server does not answer") from exc
    except psycopg.Error as exc:
        raise not_opened(exc, address.shown) from exc
    set_json_loads(orjson.loads, wire)
    return wire


def open_blocking_wire(address: Address) -> BlockingWire:
    """Connect in a thread; raises as `open_wire`."""
    try:
        wire = BlockingWire.connect(address.conninfo, autocommit=True, prepare_threshold=None, cursor_factory=RawCursor)
    except psycopg.Error as exc:
        raise not_opened(exc, address.shown) from exc
    set_json_loads(orjson.loads, wire)
    return wire
