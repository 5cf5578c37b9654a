"""The bus in this process: loops and threads tell each other things through one `MemoryHub`."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from ...control.bus import Bus

#: Messages, and bytes of them, that wait for one loop at most: further ones are dropped.
MOST_WAITING: Final = 10_000
MOST_BYTES: Final = 16 * 1024 * 1024

_addresses = itertools.count(1)


class MemoryBus(Bus):
    """One loop's place in a `MemoryHub`; without one it has a hub of its own."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        super().__init__()
        self.hub = hub if hub is not None else MemoryHub()
        self._address = f"memory-{next(_addresses)}"

    @property
    def address(self) -> str:
        return self._address

    async def __aenter__(self) -> Self:
        self.hub.join(self, asyncio.get_running_loop())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.hub.leave(self._address)

    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        self.hub.tell(address, topic, payload, len(payload))

    async def _tell_all(self, topic: str, payload: bytes) -> None:
        self.hub.tell_all(topic, payload, len(payload))


class MemoryHub:
    """All loops of one `memory://`, and what is on its way to them. May be used in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, _Listener] = {}

    def __len__(self) -> int:
        """How many hear."""
        return len(self._listeners)

    def join(self, bus: MemoryBus, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._listeners[bus.address] = _Listener(bus, loop)

    def leave(self, address: str) -> None:
        with self._lock:
            listener = self._listeners.pop(address, None)
            if listener is not None:
                listener.close()

    def tell(self, address: str, topic: str, payload: object, size: int = 0) -> None:
        """Send `payload`, which takes `size` bytes of its own. What is no bytes is for handlers that know of it."""
        with self._lock:
            listener = self._listeners.get(address)
            if listener is not None:
                listener.add(topic, payload, size)

    def tell_all(self, topic: str, payload: object, size: int = 0) -> None:
        with self._lock:
            for listener in self._listeners.values():
                listener.add(topic, payload, size)

    def take(self, listener: _Listener) -> tuple[list[tuple[str, object]], bool]:
        """Return what waits for `listener`, and whether something was dropped before it."""
        with self._lock:
            return listener.take()


class _Listener:
    """A bus that was entered, and the messages on their way to it; its hub's lock is held."""

    __slots__ = ("_bus", "_bytes", "_has_missed", "_is_scheduled", "_loop", "_waiting")

    def __init__(self, bus: MemoryBus, loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._loop = loop
        self._waiting: list[tuple[str, object]] = []
        self._bytes = 0
        self._has_missed = False
        self._is_scheduled = False

    def add(self, topic: str, payload: object, size: int) -> None:
        if len(self._waiting) >= MOST_WAITING or self._bytes + size > MOST_BYTES:
            self._bus.dropped += 1
            self._has_missed = True
            return
        self._waiting.append((topic, payload))
        self._bytes += size
        if not self._is_scheduled:
            self._is_scheduled = True
            self._soon(self._deliver)

    def take(self) -> tuple[list[tuple[str, object]], bool]:
        taken, has_missed = self._waiting, self._has_missed
        self._waiting, self._bytes, self._has_missed, self._is_scheduled = [], 0, False, False
        return taken, has_missed

    def close(self) -> None:
        self._waiting, self._bytes, self._has_missed = [], 0, False

    def _soon(self, function: Callable[[], None]) -> None:
        if self._loop is asyncio._get_running_loop():
            self._loop.call_soon(function)
        else:
            with suppress(RuntimeError):  # that loop is closed: nobody listens there any more
                self._loop.call_soon_threadsafe(function)

    def _deliver(self) -> None:
        """In the listener's own loop: hand on all that was told since this was scheduled."""
        taken, has_missed = self._bus.hub.take(self)
        for topic, payload in taken:
            self._bus.take(topic, payload)
        if has_missed:
            self._bus.tell_of_gap()
