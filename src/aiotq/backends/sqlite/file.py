"""One file and the connections to it: waiting for its locks, beginning a transaction, naming what went wrong.

A locked or full disk is a `StorageError` within a deadline and loses nothing (P7).
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from ...exceptions import Refused, StorageError, StorageGone

T = TypeVar("T")

#: Seconds between attempts to get the lock: short, since a transaction takes about a millisecond, and never in step.
_SHORTEST_PAUSE: Final = 0.0003
_LONGEST_PAUSE: Final = 0.002

#: Of each connection. Ids are random, so a commit touches many pages: 16 MB of them are kept in memory, and 16 MB of
#: log are written before they are copied to the file.
_PRAGMAS: Final = (
    "synchronous = FULL",
    "cache_size = -16384",
    "wal_autocheckpoint = 4096",
    "journal_size_limit = 67108864",
)


class File:
    """A path, which file lies there, and how long to wait for its locks."""

    def __init__(self, path: Path, timeout: float, max_pages: int | None = None) -> None:
        self.path = path
        self.timeout = timeout
        self.identity: tuple[int, int] | None = None  #: device and inode, once it was opened
        self.is_given_up = False  #: nobody waits any more for it to be opened: the next lock ends that
        self._max_pages = max_pages
        self._is_durable: dict[sqlite3.Connection, bool] = {}

    def connect(self) -> sqlite3.Connection:
        """Return a new connection.

        Raises:
            StorageError: there is none; the text says why.
        """
        try:
            connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512
            )
            try:
                limits = () if self._max_pages is None else (f"max_page_count = {self._max_pages:d}",)
                for pragma in (*_PRAGMAS, *limits):  # the first one reads the file
                    self.patiently(partial(connection.execute, f"PRAGMA {pragma}"))
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as exc:
            raise self.translated(exc) from exc
        self._is_durable[connection] = True
        return connection

    def forget_connections(self) -> None:
        """Let go of all connections, which are closed."""
        self._is_durable.clear()

    def begin(
        self, connection: sqlite3.Connection, deadline: Callable[[], float], *, durable: Callable[[], bool]
    ) -> None:
        """Begin a write transaction, waiting for other processes until `deadline()`.

        SQLite's own waiting was seen to stall for 130 ms; this one asks about every millisecond.
        """
        self.check()
        pause = _SHORTEST_PAUSE
        while True:
            is_durable = durable()
            if self._is_durable[connection] is not is_durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                self._is_durable[connection] = is_durable
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if not _is_busy(exc) or deadline() <= time.monotonic():
                    raise
            else:
                return
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def patiently(self, query: Callable[[], T], deadline: float | None = None) -> T:
        """Return what `query` returns, asking again while the file is locked."""
        deadline = self.soon() if deadline is None else deadline
        while True:
            try:
                return query()
            except sqlite3.OperationalError as exc:
                if not _is_busy(exc) or self.is_given_up or time.monotonic() >= deadline:
                    raise
            time.sleep(random.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))

    def soon(self) -> float:
        """Return the deadline (monotonic) of what begins to wait now."""
        return time.monotonic() + self.timeout

    def check(self) -> None:
        """Raise StorageGone when our file is not the one at its path: writing on would be writing nowhere."""
        try:
            status = os.stat(self.path)
        except OSError as exc:
            raise StorageGone(
                f"{self.path} was removed while it was in use ({exc.strerror}): restart this process"
            ) from exc
        if (status.st_dev, status.st_ino) != self.identity:
            raise StorageGone(f"{self.path} was replaced while it was in use: restart this process")

    def locked(self) -> StorageError:
        """Return what is said when a deadline has passed."""
        return StorageError(f"{self.path} was locked by another process for {self.timeout:g} s; nothing was written")

    def translated(self, exc: Exception) -> Exception:
        """Return `exc` as our callers know errors; what is not SQLite's stays as it is."""
        if isinstance(exc, (UnicodeEncodeError, OverflowError)):  # a lone surrogate, a number of over 64 bits
            return self._refused(exc)
        if not isinstance(exc, sqlite3.Error):
            return exc
        code = getattr(exc, "sqlite_errorcode", None)
        match code & 0xFF if code is not None else None:
            case sqlite3.SQLITE_TOOBIG:
                return Refused(f"{self.path}: it is larger than SQLite takes ({exc})", "too_large")
            case sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH:
                return self._refused(exc)
            case None if "binding parameter" in str(exc):  # of a type that SQLite does not have
                return self._refused(exc)
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self.locked()
            case sqlite3.SQLITE_FULL:
                text = "can't grow, the disk is full: nothing was written; free some space and try again"
            case sqlite3.SQLITE_IOERR:
                text = f"could not be read or written ({exc}): look at the disk (is it full?) and the system's log"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
                text = f"can't be written ({exc}): look at the permissions of the file and of its directory"
            case sqlite3.SQLITE_NOTADB:
                text = "is not a SQLite database: name another file"
            case sqlite3.SQLITE_CORRUPT:
                text = f"is damaged ({exc}): stop all processes, then restore it or try `sqlite3 FILE .recover`"
            case _:
                text = f"could not be used: {exc}"
        return StorageError(f"{self.path} {text}")

    def _refused(self, exc: Exception) -> Refused:
        return Refused(f"{self.path}: it can't be stored: {exc}", "unencodable")


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # some errors have rolled back already
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _is_busy(exc: sqlite3.OperationalError) -> bool:
    return (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
