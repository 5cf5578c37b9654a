"""Requests from a thread without a loop: the heartbeat, which must go on while the worker's loop is blocked (P2)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence

from ...exceptions import OperationalError
from .address import Address
from .connection import AT_ONCE, SqsClient


class BlockingClient:
    """A client with a loop of its own, which runs while something is asked. Made when first wanted."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self._client: SqsClient | None = None
        self._is_closed = False

    def hold(self, handles: Mapping[str, Sequence[str]], seconds: int) -> set[str]:
        """Have messages (handles by the URL of their queue) for `seconds` more; return the handles that are stale.

        Raises:
            ConnectionLost: some may be held for longer.
        """
        with self._lock:
            if self._is_closed:
                raise OperationalError(f"{self._address.shown}: the consumer has been left")
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(self._held(handles, seconds))

    async def _held(self, handles: Mapping[str, Sequence[str]], seconds: int) -> set[str]:
        if self._client is None:
            self._client = await SqsClient(self._address).__aenter__()
        stale: set[str] = set()
        for url, given in handles.items():
            for start in range(0, len(given), AT_ONCE):
                some = given[start : start + AT_ONCE]
                failed = await self._client.hold(url, [(handle, seconds) for handle in some])
                stale.update(some[place] for place in failed)
        return stale

    def close(self) -> None:
        """Close its connections; nothing can be asked any more."""
        with self._lock:
            self._is_closed = True
            runner, client = self._runner, self._client
            self._runner = self._client = None
            if runner is not None:
                if client is not None:
                    runner.run(client.__aexit__())
                runner.close()
