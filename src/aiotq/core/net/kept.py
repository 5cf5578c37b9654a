"""A connection that is kept open: made anew when it ends, for ever, with pauses that grow and jitter (P7)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

from ...exceptions import NotConnected, OperationalError

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
#: Seconds after which a connection is thought to be of use.
_SETTLED: Final = 3.0
#: Seconds between looks at a connection: silence, replies overdue.
_CHECK: Final = 1.0
#: Seconds that a caller who needs the connection waits for it to be there again before the call fails.
_PATIENCE: Final = 1.0


class Wire(Protocol):
    """A connection once it is made; `closed` is set when it is no more, and `reason` says why."""

    closed: asyncio.Event
    reason: str

    @property
    def is_open(self) -> bool: ...


W = TypeVar("W", bound=Wire)


class Kept(Generic[W]):
    """Keeps a connection open: `open` makes the first one, `keep` each further one.

    `connect` makes one, trying once. `check` is called each second that one is open, and closes one that is of no more
    use. `close` cleans up after one that has ended. `shown` names the server, `role` what the connection is for.
    """

    def __init__(
        self,
        shown: str,
        role: str,
        logger: logging.Logger,
        connect: Callable[[], Awaitable[W]],
        check: Callable[[W], None],
        close: Callable[[W], Awaitable[None]] | None = None,
    ) -> None:
        self._shown = shown
        self._role = role
        self._logger = logger
        self._connect = connect
        self._check = check
        self._close = close
        self._is_up = asyncio.Event()
        self._last_error: OperationalError | None = None
        #: The connection that was made last, which may have ended.
        self.wire: W | None = None
        #: Called when there is another connection.
        self.on_open: list[Callable[[], None]] = []

    async def open(self) -> None:
        """Make a connection, trying once; raises as `connect` does."""
        self.wire = await self._connect()
        self._is_up.set()
        for callback in tuple(self.on_open):
            callback()

    async def get(self) -> W:
        """Return the open connection, waiting a moment for it.

        Raises:
            NotConnected: there is none.
        """
        if self.wire is not None and self.wire.is_open:
            return self.wire
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self.wire is None or not self.wire.is_open:
                    self._is_up.clear()
                    await self._is_up.wait()
        if self.wire is None or not self.wire.is_open:
            raise NotConnected(str(self._last_error or f"{self._shown}: there is no connection"))
        return self.wire

    async def keep(self) -> None:
        """Watch the connection and make a new one when it ends, until cancelled.

        Each change is said once: what fails for hours, or connects and is thrown out again, does not fill the log.
        """
        loop = asyncio.get_running_loop()
        shown = f"{self._shown} ({self._role})"
        pause = _FIRST_PAUSE
        said: set[str] = set()
        is_told = False

        def tell(message: str, reason: object) -> None:
            nonlocal is_told
            if str(reason) not in said:
                said.add(str(reason))
                is_told = True
                self._logger.warning("%s %s: %s", shown, message, reason)

        while True:
            wire = self.wire
            if wire is not None and wire.is_open:
                began = loop.time()
                await self._watch(wire)
                if self._close is not None:
                    await self._close(wire)
                if loop.time() - began > _SETTLED:
                    pause = _FIRST_PAUSE
                    said.clear()
                self._last_error = NotConnected(f"{self._shown}: the connection was lost ({wire.reason})")
                tell("was lost, connecting again", wire.reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                await self.open()
            except OperationalError as exc:
                self._last_error = exc
                tell("can't be opened, trying again", exc)
            except Exception:  # a defect must not end what everything depends on
                self._logger.exception("%s can't be opened, trying again", shown)
            else:
                if is_told:
                    is_told = False
                    self._logger.warning("%s is open again", shown)

    async def _watch(self, wire: W) -> None:
        """Return when `wire` is closed; have it checked until then."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK):
                    await wire.closed.wait()
                    return
            self._check(wire)
