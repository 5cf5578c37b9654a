"""Writes in the thread that asks for them, beside the loop: so leases are renewed whatever the loop does (P2)."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ...exceptions import StorageError
from .bus import Notices, SQLiteBus
from .file import File, roll_back
from .sql import Transaction

T = TypeVar("T")


class BlockingWriter:
    """One connection for such calls, made when it is first needed; one thread at a time."""

    def __init__(self, file: File, bus: SQLiteBus, send: Callable[[Notices], None]) -> None:
        self._file = file
        self._bus = bus
        self._send = send
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def write(self, operation: Callable[[Transaction], T], timeout: float) -> T:
        """Run `operation` within `timeout` seconds; committed, but not durable.

        Raises:
            StorageError: it was not done; the text says why.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise StorageError(f"{self._file.path}: another thread was writing for {timeout:g} s; nothing was written")
        try:
            if self._connection is None:
                self._connection = self._file.connect()
            connection = self._connection
            self._file.begin(connection, lambda: deadline, durable=lambda: False)
            transaction = Transaction(connection)
            try:
                answer = operation(transaction)
                notices = self._bus.notices(transaction)
                connection.execute("COMMIT")
            except BaseException:
                roll_back(connection)
                raise
        except sqlite3.Error as exc:
            raise self._file.translated(exc) from exc
        finally:
            self._lock.release()
        self._send(notices)
        return answer

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
