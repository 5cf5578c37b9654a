"""Connections of psycopg that end in time: interrupted, they are closed, and none waits for a silent server.

A statement goes to libpq without a cursor of psycopg's, which costs three times as much.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson
import psycopg
from psycopg import adapt, errors, pq
from psycopg.abc import PQGen, Transformer
from psycopg.pq.abc import PGresult
from psycopg.raw_cursor import AsyncRawCursor, RawCursor
from psycopg.types.json import set_json_loads
from psycopg.waiting import Ready, Wait

from ...exceptions import NotConnected
from .address import Address
from .errors import not_opened
from .values import Value, Values

logger = logging.getLogger("aiotq.postgres")

T = TypeVar("T")

_FAILED: Final = pq.ExecStatus.FATAL_ERROR
_HAS_ROWS: Final = pq.ExecStatus.TUPLES_OK

#: Is told the rows of a statement, or why there are none.
Told = Callable[[list[Any], psycopg.Error | None], None]


class Wire(psycopg.AsyncConnection[Any]):
    """A connection of the loop's. What was interrupted on it may have been done: it is closed.

    Its socket is read all the time, so what the server says by itself is heard at once, and so is its end.
    """

    #: Is told each notification: channel, payload.
    on_notify: Callable[[str, str], None] | None = None
    #: Is told when the connection has ended by itself.
    on_end: Callable[[psycopg.Error], None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _socket: int = -1
    _is_writing: bool = False
    _told: Told | None = None  #: of the statement under way
    _results: list[PGresult]
    _ready: asyncio.Future[Ready] | None = None  #: what psycopg's own code waits for
    _transformer: Transformer

    def attach(self) -> None:
        """Begin to read what comes."""
        self._loop = asyncio.get_running_loop()
        self._socket = self.pgconn.socket
        self._results = []
        self._transformer = adapt.Transformer(self)
        self._loop.add_reader(self._socket, self._read)

    def end(self) -> None:
        """Close the connection; nobody is told any more."""
        if self._socket >= 0 and self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._stop_writing()
            self._socket = -1
        self._told = None
        self.pgconn.finish()

    def ask(self, sql: bytes, values: Values, told: Told) -> None:
        """Send a statement, after which `told` is called. One at a time.

        Raises:
            OperationalError: it can't be sent.
        """
        self._told = told
        try:
            self.pgconn.send_query_params(sql, values.texts, None, values.formats, pq.Format.BINARY)
            self._write()
        except psycopg.Error:
            self._told = None
            raise

    async def rows(self, sql: bytes, *values: Value) -> list[Any]:
        """Return the rows of a statement; interrupted, the connection is closed."""
        assert self._loop is not None
        answer: asyncio.Future[list[Any]] = self._loop.create_future()

        def told(rows: list[Any], error: psycopg.Error | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(rows)
            else:
                answer.set_exception(error)

        try:
            self.ask(sql, Values(values), told)
            return await answer
        except asyncio.CancelledError:
            self.end()
            raise

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        """Carry out what psycopg's own code does on the connection."""
        try:
            async with asyncio.timeout(timeout):
                wanted = next(gen)
                while True:
                    wanted = gen.send(await self._ready_for(wanted))
        except StopIteration as end:
            value: T = end.value
            return value
        except asyncio.CancelledError:
            self.end()
            raise

    async def _ready_for(self, wanted: Wait) -> Ready:
        if self._loop is None or self._socket < 0:
            raise psycopg.OperationalError("the connection is closed")
        self._ready = self._loop.create_future()
        if wanted & Wait.W:
            self._start_writing()
        try:
            return await self._ready
        finally:
            self._ready = None
            self._stop_writing()

    def _read(self) -> None:
        """Take what has come."""
        try:
            self.pgconn.consume_input()
            if self.pgconn.is_busy() and self.pgconn.ssl_in_use:
                self.pgconn.consume_input()  # the rest of a record, of which the socket knows nothing any more
            if self._ready is not None:
                if not self._ready.done():
                    self._ready.set_result(Ready.R)
                return
            if self.on_notify is not None:
                self._hear(self.on_notify)
            if self._told is not None:
                self._take_results()
        except psycopg.Error as exc:
            self._ended(exc)

    def _take_results(self) -> None:
        """Tell of the statement, if all of its results have come."""
        while not self.pgconn.is_busy():
            result = self.pgconn.get_result()
            if result is not None:
                self._results.append(result)
                continue
            results, self._results = self._results, []
            told, self._told = self._told, None
            if told is not None:
                self._tell(told, results)
            return

    def _tell(self, told: Told, results: list[PGresult]) -> None:
        last = results[-1] if results else None
        if last is not None and last.status == _HAS_ROWS:
            self._transformer.set_pgresult(last)
            try:
                rows = self._transformer.load_rows(0, last.ntuples, tuple)
            except psycopg.Error as exc:
                told([], exc)
            else:
                told(rows, None)
        elif last is not None and last.status == _FAILED:
            told([], errors.error_from_result(last))
        else:
            told([], None)

    def _hear(self, on_notify: Callable[[str, str], None]) -> None:
        while (notification := self.pgconn.notifies()) is not None:
            try:
                on_notify(notification.relname.decode(), notification.extra.decode())
            except Exception:  # a defect must not end what everything depends on
                logger.exception("a notification was not understood")

    def _ended(self, exc: psycopg.Error) -> None:
        """The connection has ended: tell whoever waits. What the server said last is the better reason."""
        failed = [result for result in self._results if result.status == _FAILED]
        reason = errors.error_from_result(failed[-1]) if failed else exc
        told, ready, on_end = self._told, self._ready, self.on_end
        self.end()
        if ready is not None and not ready.done():
            ready.set_exception(reason)
        if told is not None:
            told([], reason)
        if on_end is not None:
            on_end(reason)

    def _write(self) -> None:
        """Have libpq write, now and when the socket takes more."""
        if self.pgconn.flush():
            self._start_writing()
        elif self._is_writing:
            self._stop_writing()

    def _writable(self) -> None:
        if self._ready is not None:
            if not self._ready.done():
                self._ready.set_result(Ready.W)
            return
        try:
            self._write()
        except psycopg.Error as exc:
            self._ended(exc)

    def _start_writing(self) -> None:
        if not self._is_writing and self._loop is not None:
            self._is_writing = True
            self._loop.add_writer(self._socket, self._writable)

    def _stop_writing(self) -> None:
        if self._is_writing and self._loop is not None:
            self._is_writing = False
            self._loop.remove_writer(self._socket)


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
    wire.attach()
    return wire


def open_blocking_wire(address: Address) -> BlockingWire:
    """Connect in a thread; raises as `open_wire`."""
    try:
        wire = BlockingWire.connect(address.conninfo, autocommit=True, prepare_threshold=None, cursor_factory=RawCursor)
    except psycopg.Error as exc:
        raise not_opened(exc, address.shown) from exc
    set_json_loads(orjson.loads, wire)
    return wire
