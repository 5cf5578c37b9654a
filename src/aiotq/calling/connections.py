"""An app's connections, one for each running loop: made at the first use, closed when the app is left."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from ..core.clock import Clock, SharedClock
from ..core.settings import Settings
from ..core.sync import Bridge, is_brief
from ..exceptions import CallError, NotConnected, OperationalError
from .connection import Connection
from .persistence import persistently
from .retry_policy import RetryPolicy

#: State of `memory://name` URLs, common to the apps of a process; `memory://` is each app's own.
_named_memory: Final[dict[tuple[str, str], Any]] = {}
_connected: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()
#: Connections inherited through fork(). They are kept, so that this process never closes the sockets of the parent.
_of_the_parent: Final[list[object]] = []


class Connections:
    """Connects with the first call of each loop, and disconnects when the last block that entered the app is left.

    Before the first connection `configured` is awaited, which lets the user's code have its last word on settings, and
    `settle` is called with it: it makes what depends on settings, which are frozen next. `name` is what errors call the
    app.
    """

    def __init__(
        self,
        conf: Settings,
        clock: Clock,
        shared_clock: SharedClock,
        *,
        name: str,
        configured: Callable[[], Awaitable[None]],
        settle: Callable[[Connection], None],
        memory: Mapping[tuple[str, str], Any] | None = None,
    ) -> None:
        self._conf = conf
        self._clock = clock
        self._shared_clock = shared_clock
        self._name = name
        self._configured = configured
        self._settle = settle
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot] = weakref.WeakKeyDictionary()
        self._last_loop: asyncio.AbstractEventLoop | None = None
        self._last_connection: Connection | None = None
        self._memory = dict(memory or {})
        self.bridge = Bridge(self.close)
        _connected.add(self)

    @property
    def loops(self) -> int:
        """How many loops it keeps a connection for."""
        return len(self._connections)

    def is_away(self) -> bool:
        """Whether the running loop is brief, and nobody connected in it: its calls are for the background loop, which
        keeps a connection."""
        loop = asyncio.get_running_loop()
        return is_brief(loop) and loop not in self._connections

    async def connection(self) -> Connection:
        """Return the connection of the running loop, made with the first use; the settings are frozen then.

        Raises:
            OperationalError: broker or store can't be reached.
            SettingsError: a URL can't be used.
            Exception: the user's code raised it when it was told that the app is configured.
        """
        loop = asyncio.get_running_loop()
        if loop is self._last_loop and (last := self._last_connection) is not None and last.is_open:
            return last
        await self._configured()
        slot = self._slot()
        failures = slot.failures
        async with slot.lock:
            if slot.connection is None or not slot.connection.is_open:
                if slot.failures != failures and slot.failure is not None:
                    raise slot.failure  # it was tried while we waited: a crowd must not try one after the other
                slot.connection = await self._connect(slot)
            self._last_loop, self._last_connection = loop, slot.connection
            return slot.connection

    async def _connect(self, slot: _Slot) -> Connection:
        connection = Connection(self._conf, self._clock, self._shared_clock, self._memory_for)
        self._settle(connection)
        self._conf.freeze(f"{self._name} is in use; settings are made before the first call")
        try:
            await connection.open()
        except OperationalError as exc:
            slot.failures += 1
            slot.failure = exc
            raise
        return connection

    async def within(self, seconds: float | None, task_id: str | None, persistence: RetryPolicy | None) -> Connection:
        """As `connection`, tried again until the deadline of a call (P7), or as often as `persistence` says.

        Raises:
            PublishTimeout, PublishFailed: broker or store could not be reached.
            OperationalError: trying again would not help.
        """
        last = self._last_connection
        if last is not None and last.is_open and self._last_loop is asyncio.get_running_loop():
            return last
        return await persistently(
            self.connection, self._conf, seconds=seconds, task_id=task_id, policy=persistence, again=NotConnected
        )

    async def close(self) -> None:
        """Disconnect in the running loop: what is under way is sent first.

        Raises:
            CallError: a worker runs in this loop: leave it first.
        """
        slot = self._slot()
        if slot.holders:
            raise CallError(f"{self._name} can't disconnect while a worker of it runs in this loop: leave that first")
        async with slot.lock:
            connection, slot.connection = slot.connection, None
            if self._last_connection is connection:
                self._last_loop = self._last_connection = None
            if connection is not None:
                await connection.close()

    async def enter(self) -> None:
        """Connect, and stay so until this is left as often."""
        await self.connection()
        slot = self._slot()
        slot.entered += 1
        slot.is_left = False

    async def leave(self) -> None:
        """Disconnect if nobody else has entered and no worker runs here."""
        slot = self._slot()
        slot.entered -= 1
        if slot.entered == 0:
            slot.is_left = True
            if not slot.holders:
                await self.close()

    @asynccontextmanager
    async def holding(self) -> AsyncGenerator[Connection, None]:
        """Be connected, and stay so although the app is left meanwhile; what a worker does while it runs."""
        connection = await self.connection()
        slot = self._slot()
        slot.holders += 1
        try:
            yield connection
        finally:
            slot.holders -= 1
            if slot.is_left and not slot.entered and not slot.holders:
                await self.close()

    def _slot(self) -> _Slot:
        loop = asyncio.get_running_loop()
        slot = self._connections.get(loop)
        if slot is None:
            for other in [each() for each in self._connections.keyrefs()]:
                if other is not None and other.is_closed():  # its connection would keep it
                    self._connections.pop(other, None)
            slot = self._connections[loop] = _Slot()
        return slot

    def _memory_for(self, name: str, kind: str, make: Callable[[], Any]) -> Any:
        """Return what lasts longer than a connection: the memory of `memory://` is ours, that with a name anybody's."""
        kept = _named_memory if name else self._memory
        if (name, kind) not in kept:
            kept.setdefault((name, kind), make())
        return kept[name, kind]

    def forget(self) -> None:
        """Forget the connections inherited through fork(): they are the parent's."""
        _of_the_parent.append((self._connections, self._last_connection))
        self._connections = weakref.WeakKeyDictionary()
        self._last_loop = self._last_connection = None
        self.bridge.forget()


class _Slot:
    """The connection of one loop, and who entered it."""

    __slots__ = ("__weakref__", "connection", "entered", "failure", "failures", "holders", "is_left", "lock")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.entered = 0
        self.holders = 0  #: workers
        self.is_left = False  #: whether somebody entered the app and the last one left it
        self.failures = 0  #: attempts to connect that failed, and the error of the last
        self.failure: OperationalError | None = None
        self.lock = asyncio.Lock()


def _after_fork() -> None:
    for connections in _connected:
        connections.forget()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
