"""One connection that is kept open, on which requests are carried out one after another, each in time (P7)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import psycopg

from ...exceptions import ConnectionLost, NotConnected, OperationalError
from .address import Address
from .errors import RETRIED, is_lost, translated
from .values import Value, Values
from .wire import Wire, open_wire

logger = logging.getLogger("aiotq.postgres")

T = TypeVar("T")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
#: Seconds after which a connection is thought to be of use.
SETTLED: Final = 3.0
#: Seconds of silence after which the server is asked whether it is there.
QUIET: Final = 5.0
#: Seconds that a request waits for the connection to be there again before it fails.
PATIENCE: Final = 1.0
#: How often a transaction is done again that stood in another one's way.
_ATTEMPTS: Final = 5
_NONE: Final = Values(())

#: What is done on a connection in several statements, in a transaction of its own: it may be done again.
Work = Callable[[Wire], Awaitable[T]]


class _Request(Generic[T]):
    """What is to be done, and who waits for it."""

    __slots__ = ("answer",)

    def __init__(self, answer: asyncio.Future[T]) -> None:
        self.answer = answer

    def give(self, answer: T) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, exc: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


class _Statement(_Request[list[Any]]):
    __slots__ = ("attempt", "sql", "values")

    def __init__(self, sql: bytes, values: Values, answer: asyncio.Future[list[Any]]) -> None:
        super().__init__(answer)
        self.sql = sql
        self.values = values
        self.attempt = 1


class _Several(_Request[T]):
    __slots__ = ("work",)

    def __init__(self, work: Work[T], answer: asyncio.Future[T]) -> None:
        super().__init__(answer)
        self.work = work


class Pauses:
    """How long to wait before the next attempt to connect, and what was said of the last ones.

    Each change is said once: what fails for hours, or connects and is thrown out again, does not fill the log.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._pause = FIRST_PAUSE
        self._said: set[str] = set()
        self._is_told = False
        self._opened_at = 0.0

    def tell(self, message: str, reason: object) -> None:
        if str(reason) not in self._said:
            self._said.add(str(reason))
            self._is_told = True
            logger.warning("%s %s: %s", self._shown, message, reason)

    def opened(self, now: float) -> None:
        self._opened_at = now
        if self._is_told:
            self._is_told = False
            logger.warning("%s is open again", self._shown)

    def lost(self, reason: object, now: float) -> None:
        if now - self._opened_at > SETTLED:
            self._pause = FIRST_PAUSE
            self._said.clear()
        self.tell("was lost, connecting again", reason)

    def next(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)


class Lane:
    """One connection for requests of one kind. `keep` is to be run in a task, for as long as there are requests.

    A statement is sent by whoever asks, or by the answer to the one before it: no task stands in between.
    """

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self.shown = f"{address.shown} (connection for {name})"
        self._waiting: deque[_Statement | _Several[Any]] = deque()
        self._current: _Statement | _Several[Any] | None = None
        self._began = 0.0  #: loop time at which the current one did
        self._timer: asyncio.TimerHandle | None = None  #: looks whether it has taken too long
        self._news = asyncio.Event()
        self._is_up = asyncio.Event()
        self._wire: Wire | None = None
        self._reason: object = None  #: why the connection is of no use any more
        self._is_stopping = False
        self._is_new = True  #: nothing is known of it yet
        self._last_error: OperationalError | None = None
        #: Loop time at which the connection was made anew; None for the first one.
        self.reconnected_at: float | None = None

    async def rows(self, sql: bytes, *values: Value) -> list[Any]:
        """Return the rows of a statement. A caller that is cancelled has it carried out all the same.

        Raises:
            NotConnected: certainly nothing was done.
            ConnectionLost: it may have been done.
            Refused: it never will be.
            OperationalError: the server refused; nothing was done.
        """
        try:
            encoded = Values(values)
        except psycopg.DataError as exc:
            raise translated(exc, self._address.shown) from exc
        if self._wire is None:
            await self.connected()
        statement = _Statement(sql, encoded, asyncio.get_running_loop().create_future())
        self._put(statement)
        return await statement.answer

    async def run(self, work: Work[T]) -> T:
        """Have `work` done, and return what it returns; as `rows`."""
        if self._wire is None:
            await self.connected()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Several(work, answer))
        return await answer

    async def connected(self) -> None:
        """Return when there is a connection, soon.

        Raises:
            NotConnected: there is none.
        """
        if self._wire is None:
            patience = self._address.connect_timeout if self._is_new else PATIENCE
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._is_up.wait()
        if self._wire is None:
            raise NotConnected(str(self._last_error or f"{self.shown}: there is no connection"))

    async def open(self) -> Wire:
        """Connect; raises as `open_wire`."""
        wire = await open_wire(self._address)
        self._reason = None
        self._is_new = False
        wire.on_end = self._lose
        return wire

    async def keep(self, wire: Wire | None = None) -> None:
        """Carry out requests on `wire`, and on new connections when it is lost, until `stop` or cancelled."""
        loop = asyncio.get_running_loop()
        pauses = Pauses(self.shown)
        is_first = wire is None
        while not self._is_stopping:
            try:
                if wire is None:
                    wire = await self.open()
                    self.reconnected_at = None if is_first else loop.time()
                is_first = False
                pauses.opened(loop.time())
                reason = await self._serve(wire)
            except OperationalError as exc:
                pauses.tell("can't be opened, trying again", exc)
                self._last_error = exc
                self._is_new = False
            except Exception:  # a defect must not end what everything depends on
                logger.exception("%s failed, connecting again", self.shown)
            else:
                if not self._is_stopping:
                    pauses.lost(reason, loop.time())
            finally:
                self._drop(wire)
                wire = None
            if not self._is_stopping:
                await asyncio.sleep(pauses.next())

    def stop(self) -> None:
        """Have `keep` end when what is asked for is done."""
        self._is_stopping = True
        self._news.set()

    def _drop(self, wire: Wire | None) -> None:
        """Close a connection, and fail what waits for it: it was certainly not done."""
        self._lose("it was left")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wire is not None:
            wire.end()
        while self._waiting:
            self._waiting.popleft().fail(NotConnected(f"{self.shown}: the connection was lost"))

    def _put(self, request: _Statement | _Several[Any]) -> None:
        self._waiting.append(request)
        if self._current is None:
            self._go_on()

    async def _serve(self, wire: Wire) -> object:
        """Have requests carried out; return why the connection is of no use any more, or when `stop` was called."""
        self._wire = wire
        self._is_up.set()
        self._go_on()
        while self._reason is None:
            current = self._current
            if isinstance(current, _Several):
                await self._carry_out(current, wire)
                continue
            if self._is_stopping and current is None:
                return "it was left"
            self._news.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._news.wait()
            except TimeoutError:
                if self._current is None and asyncio.get_running_loop().time() - self._began >= QUIET:
                    ping = _Statement(b"select 1", _NONE, asyncio.get_running_loop().create_future())
                    ping.answer.add_done_callback(_ignored)
                    self._put(ping)
        return self._reason

    def _go_on(self) -> None:
        """Begin the next request, if none is under way; one of several statements is for `_serve` to carry out."""
        while self._current is None and self._waiting and self._wire is not None:
            request = self._waiting.popleft()
            if request.answer.cancelled():
                continue
            self._current = request
            self._began = asyncio.get_running_loop().time()
            if isinstance(request, _Several):
                self._news.set()
            else:
                self._send(request, self._wire)
        if self._is_stopping and self._current is None:
            self._news.set()

    def _send(self, statement: _Statement, wire: Wire) -> None:
        def told(rows: list[Any], error: psycopg.Error | None) -> None:
            if self._current is not statement:  # too late
                return
            if error is not None and self._again(statement, error, wire):
                return
            self._current = None
            if error is None:
                statement.give(rows)
            else:
                statement.fail(translated(error, self._address.shown))
                if wire.closed or is_lost(error):
                    self._lose(error)
            self._go_on()

        if self._timer is None:
            self._look_at(self._began + self._address.reply_timeout)
        try:
            wire.ask(statement.sql, statement.values, told)
        except psycopg.Error as exc:
            told([], exc)

    def _again(self, statement: _Statement, error: psycopg.Error, wire: Wire) -> bool:
        """Send a statement again that stood in another transaction's way."""
        if error.sqlstate not in RETRIED or statement.attempt >= _ATTEMPTS:
            return False

        def send() -> None:
            if self._current is statement:
                self._send(statement, wire)

        asyncio.get_running_loop().call_later(random.uniform(0, 0.005 * statement.attempt), send)
        statement.attempt += 1
        return True

    def _look_at(self, time: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(time, self._look)

    def _look(self) -> None:
        """See whether the statement under way has taken too long; a timer for each one would cost more."""
        self._timer = None
        if isinstance(self._current, _Statement):
            ends = self._began + self._address.reply_timeout
            if ends > asyncio.get_running_loop().time():
                self._look_at(ends)
            else:
                self._lose(f"no answer within {self._address.reply_timeout:g} s")

    def _lose(self, reason: object) -> None:
        """The connection is of no use any more: what is under way may have been done."""
        if self._reason is None:
            self._reason = reason
        self._wire = None
        self._is_up.clear()
        current, self._current = self._current, None
        if current is not None:
            current.fail(ConnectionLost(f"{self.shown}: {reason}"))
        self._news.set()

    async def _carry_out(self, request: _Several[Any], wire: Wire) -> None:
        """Carry out one request of several statements."""
        await self._attempt(request, wire)
        if self._current is request:
            self._current = None
            self._go_on()

    async def _attempt(self, request: _Several[Any], wire: Wire) -> None:
        limit = self._address.reply_timeout
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with asyncio.timeout(limit):
                    request.give(await request.work(wire))
            except TimeoutError:
                self._lose(f"no answer within {limit:g} s")
            except psycopg.Error as exc:
                if exc.sqlstate in RETRIED and attempt < _ATTEMPTS:
                    await asyncio.sleep(random.uniform(0, 0.005 * attempt))
                    continue
                request.fail(translated(exc, self._address.shown))
                if wire.closed or is_lost(exc):
                    self._lose(exc)
            except Exception as exc:  # a defect of the request's, or what can't be read: its caller's to know
                request.fail(exc)
                if wire.closed:
                    self._lose("a request failed in the middle")
            return


def _ignored(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it."""
    if not answer.cancelled():
        answer.exception()
