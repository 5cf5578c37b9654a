"""The threads: each has a connection of its own and runs all operations that wait for it at once, in order."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from .sql import Transaction

logger = logging.getLogger("aiotq.sqlite")

T = TypeVar("T")

#: Operations that share a transaction at most: other processes want their turn.
MAX_GROUP: Final = 256


class Operation(Generic[T]):
    """Something to run in a thread, and the future that has its answer in the loop."""

    __slots__ = ("answer", "deadline", "is_durable", "run", "undo")

    def __init__(
        self,
        run: Callable[[Any], T],
        deadline: float,
        answer: asyncio.Future[T] | None = None,
        is_durable: bool = False,
        undo: Callable[[Transaction, T], object] | None = None,
    ) -> None:
        self.run = run  #: what it is given is up to the lane: a transaction, or a connection
        self.deadline = deadline  #: monotonic
        self.answer = answer
        self.is_durable = is_durable
        self.undo = undo

    @property
    def is_abandoned(self) -> bool:
        return self.answer is not None and self.answer.cancelled()


#: Operations that were run, each with its answer or the error it got instead.
Answers = list[tuple[Operation[Any], Any, BaseException | None]]


class DatabaseThread:
    """A thread with a connection of its own, which runs all that waits at once, in order.

    A daemon thread: a program that forgets to close the file can still end, as if it were killed.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], sqlite3.Connection],
        serve: Callable[[sqlite3.Connection, list[Operation[Any]], DatabaseThread], None],
        before_end: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._before_end = before_end
        self._connect = connect
        self._serve = serve
        self._waiting: SimpleQueue[Operation[Any] | None] = SimpleQueue()
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._is_stopping = False
        self.is_started = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def started(self) -> None:
        """Return when the connection stands.

        Raises:
            StorageError: it does not; the thread has ended.
        """
        await asyncio.wait({self._started})
        self._started.result()
        self.is_started = True

    def submit(self, operation: Operation[Any]) -> None:
        self._waiting.put(operation)

    async def stop(self) -> None:
        """Finish what was submitted and end the thread."""
        self._waiting.put(None)
        if not self._ended.done():
            await asyncio.wait({self._ended})
        self._thread.join()
        if self._started.done():
            self._started.exception()  # retrieved: who opened the file has heard of it, or went away

    def take_waiting(self, limit: int) -> list[Operation[Any]]:
        """Return what waits, at most `limit`. In the thread."""
        taken: list[Operation[Any]] = []
        while len(taken) < limit and not self._is_stopping:
            try:
                operation = self._waiting.get_nowait()
            except Empty:
                break
            if operation is None:
                self._is_stopping = True
            else:
                taken.append(operation)
        return taken

    def _main(self) -> None:
        try:
            connection = self._connect()
        except Exception as exc:  # the opener of the file raises it
            self._tell(self._started, exc)
            self._tell(self._ended, None)
            return
        self._tell(self._started, None)
        try:
            while not self._is_stopping:
                first = self._waiting.get()
                if first is None:
                    break
                group = [first, *self.take_waiting(MAX_GROUP - 1)]
                try:
                    self._serve(connection, group, self)
                except Exception as exc:  # a defect of ours: those who wait must hear of it, and the others go on
                    logger.exception("%s failed", self._thread.name)
                    self._fail(group, exc)
        finally:
            with suppress(sqlite3.Error):
                if self._before_end is not None:
                    self._before_end()
                connection.close()
            self._tell(self._ended, None)

    def _fail(self, group: list[Operation[Any]], error: Exception) -> None:
        for operation in group:
            if operation.answer is not None:
                self._tell(operation.answer, error)

    def _tell(self, future: asyncio.Future[Any], error: Exception | None) -> None:
        def tell() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(None)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(tell)
