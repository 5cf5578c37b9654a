"""Statements run by the thread that asks for them, on a connection beside the loop's.

So leases are renewed whatever the loop does (P2).
"""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg

from ...exceptions import ConnectionLost
from .address import Address
from .errors import is_lost, translated
from .wire import BlockingWire, open_blocking_wire


class BlockingClient:
    """One connection of psycopg's plain kind, made when it is first needed; one thread at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._wire: BlockingWire | None = None

    def rows(self, sql: bytes, *values: Any) -> list[Any]:
        """Run a statement and return its rows, within the connect timeout for each of connecting and answering.

        Raises:
            ConnectionLost: no answer; it may have been done.
            OperationalError: the server refused.
        """
        address = self._address
        if not self._lock.acquire(timeout=address.connect_timeout):
            raise ConnectionLost(f"{address.shown}: another thread waits for its answer")
        try:
            if self._wire is None:
                self._wire = open_blocking_wire(address)
            self._wire.deadline = time.monotonic() + address.connect_timeout
            cursor = self._wire.execute(address.named(sql.decode()).encode(), values, binary=True)
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as exc:
            if self._wire is None or self._wire.closed or is_lost(exc):
                self._drop()
            raise translated(exc, address.shown) from exc
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def release(self) -> None:
        """Close the connection unless somebody uses it now; it is made again when it is needed."""
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.pgconn.finish()
