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

#: What is done on a connection, in a transaction of its own or as one statement: it may be done again.
Work = Callable[[Wire], Awaitable[T]]


class _Request(Generic[T]):
    __slots__ = ("answer", "work")

    def __init__(self, work: Work[T], answer: asyncio.Future[T]) -> None:
        self.work = work
        self.answer = answer

    def fail(self, exc: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


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
    """One connection for requests of one kind. `keep` is to be run in a task, for as long as there are requests."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self.shown = f"{address.shown} (connection for {name})"
        self._waiting: deque[_Request[Any]] = deque()
        self._news = asyncio.Event()
        self._is_up = asyncio.Event()
        self._wire: Wire | None = None
        self._is_stopping = False
        self._is_new = True  #: nothing is known of it yet
        self._last_error: OperationalError | None = None
        #: Loop time at which the connection was made anew; None for the first one.
        self.reconnected_at: float | None = None

    async def run(self, work: Work[T]) -> T:
        """Have `work` done, and return what it returns. A caller that is cancelled has it done all the same.

        Raises:
            NotConnected: certainly nothing was done.
            ConnectionLost: it may have been done.
            Refused: it never will be.
            OperationalError: the server refused; nothing was done.
        """
        if self._wire is None:
            await self.connected()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(work, answer))
        self._news.set()
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
        self._wire = wire
        self._is_new = False
        self._is_up.set()
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
        self._wire = None
        self._is_up.clear()
        if wire is not None:
            wire.pgconn.finish()
        while self._waiting:
            self._waiting.popleft().fail(NotConnected(f"{self.shown}: the connection was lost"))

    async def _serve(self, wire: Wire) -> object:
        """Carry out requests; return why the connection is of no use any more, or when `stop` was called."""
        while True:
            while self._waiting:
                request = self._waiting.popleft()
                if request.answer.cancelled():
                    continue
                if (reason := await self._carry_out(request, wire)) is not None:
                    return reason
            if self._is_stopping:
                return "it was left"
            self._news.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._news.wait()
            except TimeoutError:
                ping: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                if (reason := await self._carry_out(_Request(_ping, ping), wire)) is not None:
                    ping.exception()  # retrieved: nobody waits for it
                    return reason

    async def _carry_out(self, request: _Request[T], wire: Wire) -> object:
        """Carry out one request; return why the connection is of no use any more, None if it is."""
        limit = self._address.reply_timeout
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with asyncio.timeout(limit):
                    answer = await request.work(wire)
            except TimeoutError:
                reason = f"no answer within {limit:g} s"
                request.fail(ConnectionLost(f"{self.shown}: {reason}"))
                return reason
            except psycopg.Error as exc:
                if exc.sqlstate in RETRIED and attempt < _ATTEMPTS:
                    await asyncio.sleep(random.uniform(0, 0.005 * attempt))
                    continue
                request.fail(translated(exc, self._address.shown))
                return exc if wire.closed or is_lost(exc) else None
            except asyncio.CancelledError:
                request.fail(ConnectionLost(f"{self.shown}: it was left"))
                raise
            except Exception as exc:  # a defect of the request's, or what can't be read: its caller's to know
                request.fail(exc)
                return "a request failed in the middle" if wire.closed else None
            else:
                if not request.answer.done():
                    request.answer.set_result(answer)
                return None
        return None


async def _ping(wire: Wire) -> None:
    await wire.execute(b"select 1")
