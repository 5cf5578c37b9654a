"""One SQLite file as one process and loop uses it: entering and leaving it, writing, reading, being woken.

Broker and store of one app stand on one `Database`. What it promises: an awaited durable write is on the disk (P1), a
locked or full disk is a `StorageError` within a deadline and loses nothing (P7), and no call blocks the loop.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from ...core.aio import finish
from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import StorageError
from .blocking import BlockingWriter
from .bus import Notices, SQLiteBus, remove_listeners
from .executor import Executor
from .file import File
from .mailbox import POLL_INTERVAL
from .opening import open_or_create
from .sql import Transaction
from .threads import DatabaseThread, Operation

T = TypeVar("T")

#: An undoing is given up only after this many times the deadline of other writes: nobody would ask again.
_UNDO_PATIENCE: Final = 12

#: What a forked child found and must not touch, kept so that nothing closes it.
_inherited: Final[list[object]] = []


class Database:
    """One SQLite file, as one process and loop uses it.

    An async context manager that may be entered several times (by the app, the broker, the store); the last one to
    leave closes it. Its threads finish what was asked for before they end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock = SYSTEM_CLOCK,
        timeout: float = 5.0,
        max_pages: int | None = None,
    ) -> None:
        """`timeout`: seconds to wait for locks. `max_pages`: the file never grows beyond, as on a full disk."""
        self.timeout = timeout
        self.interval = POLL_INTERVAL
        self._clock = clock
        self._max_pages = max_pages
        self._begin_anew(Path(path))

    def _begin_anew(self, path: Path) -> None:
        """Be a file that nobody has opened yet."""
        self._pid = os.getpid()
        self._entered = 0
        self._opening: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: DatabaseThread | None = None
        self._reader: DatabaseThread | None = None
        self._file = File(path, self.timeout, self._max_pages)
        self.bus = SQLiteBus(self._clock, self.read, self._send)
        self._blocking = BlockingWriter(self._file, self.bus, self._send)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def address(self) -> str:
        """This process, as listeners and `reply_to` name it; another one after the file was closed and opened again."""
        return self.bus.address

    def pause(self) -> float:
        """Return the seconds until one should look without having been woken."""
        return self.interval * random.uniform(0.7, 1.3)

    async def __aenter__(self) -> Self:
        self._forget_parent()
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if not self._entered:
                await self._open()
            self._entered += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._pid == os.getpid() and self._opening is not None:
            await finish(self._leave(self._opening), (_UNDO_PATIENCE + 1) * self.timeout)

    async def write(
        self,
        operation: Callable[[Transaction], T],
        *,
        durable: bool = True,
        undo: Callable[[Transaction, T], object] | None = None,
    ) -> T:
        """Run `operation` in a transaction, which it may share with others; it may be run again after a roll-back.

        On return it is committed, and on the disk if `durable` (otherwise it survives a killed process, but perhaps
        no power failure). Cancelled, it is skipped or done; if done, nobody gets its answer, and `undo` is run with it.

        Raises:
            StorageError: it was not done, or nobody knows (an I/O error); the text says why.
        """
        lane, loop = self._lane(self._writer)
        answer: asyncio.Future[T] = loop.create_future()
        lane.submit(Operation(operation, self._file.soon(), answer, durable, undo))
        try:
            return await answer
        except asyncio.CancelledError:
            if undo is not None and answer.done() and not answer.cancelled() and answer.exception() is None:
                self.undo(undo, answer.result())
            raise

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` on a connection of its own, beside the writing.

        Raises:
            StorageError: the text says why.
        """
        lane, loop = self._lane(self._reader)
        answer: asyncio.Future[T] = loop.create_future()
        lane.submit(Operation(query, self._file.soon(), answer))
        return await answer

    def undo(self, undo: Callable[[Transaction, T], object], answer: T) -> None:
        """Have `undo(answer)` done, without waiting for it: the caller was interrupted."""
        if self._writer is not None:
            deadline = time.monotonic() + _UNDO_PATIENCE * self.timeout
            self._writer.submit(Operation(lambda transaction: undo(transaction, answer), deadline))

    def write_here(self, operation: Callable[[Transaction], T], timeout: float | None = None) -> T:
        """Run `operation` in the calling thread, on a connection for such calls; committed, but not durable.

        Raises:
            StorageError: it was not done; the text says why.
        """
        self._lane(self._writer)
        return self._blocking.write(operation, self.timeout if timeout is None else timeout)

    async def refresh(self) -> None:
        """Renew this process' entry among the listeners, or make it anew; remove what is expired. Now and then."""
        await self.write(self.bus.register, durable=False)

    async def _open(self) -> None:
        self._pid = os.getpid()
        file, bus = self._file, self.bus
        file.is_given_up = False
        loop = self._loop = asyncio.get_running_loop()
        self.interval = bus.open(loop)
        executor = Executor(file, bus, loop, send=self._send, undo=self.undo)
        try:
            self._writer = DatabaseThread(
                "aiotq.sqlite.writer", loop, partial(open_or_create, file), executor.write_all, self._blocking.close
            )
            await self._writer.started()
            self._reader = DatabaseThread("aiotq.sqlite.reader", loop, file.connect, executor.read_all)
            await self._reader.started()
            await self.refresh()
        except BaseException:
            file.is_given_up = True
            await self._close()
            raise
        bus.listen()

    async def _leave(self, opening: asyncio.Lock) -> None:
        async with opening:
            self._entered -= 1
            if not self._entered:
                await self._close()

    async def _close(self) -> None:
        self.bus.stop_listening()
        try:
            if self._writer is not None and self._writer.is_started and self.bus.has_mailbox:
                with suppress(StorageError):  # a listener that is gone is found out by the next who wants to wake it
                    await self.write(self.bus.unregister, durable=False)
        finally:
            lanes = [lane for lane in (self._writer, self._reader) if lane is not None]
            self._writer = self._reader = None
            for lane in lanes:
                await lane.stop()
            self._file.forget_connections()
            self.bus.close()
            self._loop = self._opening = None

    def _forget_parent(self) -> None:
        """After a fork, begin anew: the threads are the parent's, and its connections must not even be closed here.

        Source: SQLite, "How To Corrupt An SQLite Database File", 2.6.
        """
        if self._pid != os.getpid():
            _inherited.append((self._writer, self._reader, self._blocking, self.bus, self._file))
            self._begin_anew(self.path)

    def _lane(self, lane: DatabaseThread | None) -> tuple[DatabaseThread, asyncio.AbstractEventLoop]:
        if self._pid != os.getpid():
            raise StorageError(f"{self.path} was opened before this process was forked: open it anew")
        if lane is None or self._loop is None:
            raise StorageError(f"{self.path} is not open")
        return lane, self._loop

    def _send(self, notices: Notices) -> None:
        """Tell who is to be told, and have those forgotten that are gone. In any thread."""
        gone = self.bus.send(notices)
        writer = self._writer
        if gone and writer is not None:
            writer.submit(Operation(lambda transaction: remove_listeners(transaction, gone), self._file.soon()))
