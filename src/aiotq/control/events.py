"""`app.events`: reading what workers tell of themselves and of calls, and folding it into a state.

Whoever reads says so to all workers, and says it again while it reads; they send to it alone. What it does not read in
time is dropped and counted. When it ends, or is forgotten, nothing is left of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, Final, Self, cast

from ..calling.connection import Connection
from ..calling.core import AppCore
from ..core.aio import start
from ..core.logs import WarnOnce
from ..exceptions import BadSignature, InvalidOption, MalformedMessage, OperationalError, Unsigned
from ..wire.message import is_name
from ..wire.signing import Signer
from .bus import Bus
from .event_format import (
    DROPPED,
    EVENTS,
    QUESTION,
    WISHES,
    Common,
    Wish,
    count_in,
    pack_wish,
    unpack_events,
    unpack_question,
)
from .state import State

logger = logging.getLogger("aiotq.events")

#: Seconds for which a wish holds, and after which it is said again: two may be lost.
WISH: Final = 15.0
_RENEWED: Final = 5.0
#: Bytes of events, and batches of them, that wait for who reads, at most.
MOST_BYTES: Final = 16 * 1024 * 1024
_MOST_BATCHES: Final = 5_000
#: Seconds that telling workers something may take.
_TELLING: Final = 5.0
_LAST: Final = 1.0


class Events:
    """What workers tell.

    ```python
    async for event in app.events.capture(types=["task-failed"]):
        print(event["uuid"], event["exception"])
    ```
    """

    State = State

    def __init__(self, core: AppCore) -> None:
        self._core = core

    def capture(
        self,
        limit: int | None = None,
        *,
        types: Sequence[str] | None = None,
        timeout: float | None = None,
        wakeup: bool = True,
    ) -> Capture:
        """Return the events that come from now on, as dictionaries in Celery's format.

        It ends after `limit` events, or when none came for `timeout` seconds. `types` are names and globs of the events
        that are wanted (`"task-*"`). With `wakeup=False` nobody is asked for events: only those come that are sent
        anyway, by workers with `-E` or since somebody else asks. What is lost on the way is an event as well:
        `events-dropped`, with the number (None where it is not known).

        Raises:
            InvalidOption: `limit`, `types` or `timeout` is impossible.
        """
        return Capture(self._core, limit, _checked_types(types), timeout, wakeup=wakeup)


class Capture:
    """Events as they come: `async for event in capture`; inside `async with` it begins and ends with that.

    Raises `OperationalError` when broker or store can't be reached, or the app's connection ends.
    """

    def __init__(
        self, core: AppCore, limit: int | None, types: Sequence[str] | None, timeout: float | None, *, wakeup: bool
    ) -> None:
        if limit is not None and limit < 0:
            raise InvalidOption(f"capture: limit must be a number of events, not {limit!r}")
        if timeout is not None and not 0 < timeout < math.inf:
            raise InvalidOption(f"capture: timeout must be seconds, more than 0, not {timeout!r}")
        self._core = core
        self._left = limit
        self._types = types
        self._timeout = timeout
        self._wakeup = wakeup
        self._feed: _Feed | None = None
        self._ready: deque[dict[str, Any]] = deque()
        self._is_over = False
        self._forget: weakref.finalize[Any, Any] | None = None

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._left == 0 or self._is_over:
            await self.aclose()
            raise StopAsyncIteration
        feed = self._feed or await self._begin()
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                while not self._ready:
                    await self._next_batch(feed)
        except TimeoutError:
            if not limit.expired():
                raise
            await self.aclose()
            raise StopAsyncIteration from None
        if self._left is not None:
            self._left -= 1
        return self._ready.popleft()

    @property
    def refused(self) -> int:
        """How many batches were no events, of another version, or not signed as they must be."""
        return 0 if self._feed is None else self._feed.refused

    async def aclose(self) -> None:
        """Take no more, and tell workers so."""
        self._is_over = True
        feed = self._feed
        if feed is not None and not feed.is_closed:
            feed.close()
            await feed.say_good_bye()

    async def _begin(self) -> _Feed:
        if self._feed is None:
            connection = await self._core.connection()
            feed = self._feed = _Feed(connection, self._core, wakeup=self._wakeup)
            loop = asyncio.get_running_loop()
            self._forget = weakref.finalize(self, _close_in, loop, feed)
            self._forget.atexit = False
            await feed.begin()
        return self._feed

    async def _next_batch(self, feed: _Feed) -> None:
        for event in await feed.take():
            if self._types is None or any(fnmatchcase(event["type"], each) for each in self._types):
                self._ready.append(event)


class _Feed:
    """What comes for one reader, whom it does not know: nobody who forgot it is kept by it."""

    def __init__(self, connection: Connection, core: AppCore, *, wakeup: bool) -> None:
        self.refused = 0
        self.is_closed = False
        self._connection = connection
        self._bus: Bus = connection.bus
        self._signer: Signer | None = core.signer
        self._clock = core.clock
        self._common = Common.here(core.origin)
        self._asks = wakeup
        self._batches: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._has_gap = False
        self._came = asyncio.Event()
        self._asked_by: set[str] = set()
        self._asked = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._ends = [
            self._bus.hear(EVENTS, self._heard, self._missed),
            self._bus.hear(QUESTION, self._heard_question),
        ]
        self._complaint = WarnOnce(logger, "workers could not be told that events are wanted")

    async def begin(self) -> None:
        """Say that events are wanted, and go on doing so."""
        await self._wish()
        self._renewing = start(self._renew(), name="aiotq.events.reader", context=contextvars.Context())

    def close(self) -> None:
        """Hear no more; called in the loop."""
        if self.is_closed:
            return
        self.is_closed = True
        for end in self._ends:
            end()
        if self._renewing is not None:
            self._renewing.cancel()
        self._batches.clear()
        self._came.set()

    async def say_good_bye(self) -> None:
        if self._renewing is not None:
            await asyncio.wait({self._renewing})
        with suppress(OperationalError, TimeoutError):
            async with asyncio.timeout(_LAST):
                await self._bus.tell_all(WISHES, self._packed(0.0))

    async def take(self) -> Sequence[dict[str, Any]]:
        """Return the events that came, waiting for the first.

        Raises:
            OperationalError: the connection has ended.
        """
        while not (self._batches or self._dropped or self._has_gap):
            if self.is_closed:
                raise OperationalError("the app's connection ended while events were read")
            self._came.clear()
            await self._came.wait()
        if self._dropped or self._has_gap:
            dropped, self._dropped, self._has_gap = None if self._has_gap else self._dropped, 0, False
            common = self._common
            return [
                {
                    "type": DROPPED,
                    "timestamp": self._clock.time(),
                    "hostname": common.hostname,
                    "pid": common.pid,
                    "utcoffset": common.utcoffset,
                    "clock": 0,
                    "dropped": dropped,
                }
            ]
        payload = self._batches.popleft()
        self._bytes -= len(payload)
        try:
            return unpack_events(payload, self._signer)
        except (MalformedMessage, Unsigned, BadSignature) as exc:
            self.refused += 1
            if self.refused == 1:
                logger.warning("events that can't be used (further ones are counted): %s", exc)
            return ()

    def _heard(self, payload: bytes) -> None:
        if len(self._batches) >= _MOST_BATCHES or self._bytes + len(payload) > MOST_BYTES:
            self._dropped += count_in(payload)
        else:
            self._batches.append(payload)
            self._bytes += len(payload)
        self._came.set()

    def _missed(self) -> None:
        self._has_gap = True
        self._came.set()

    def _heard_question(self, payload: bytes) -> None:
        with suppress(MalformedMessage, Unsigned, BadSignature):
            self._asked_by.add(unpack_question(payload, self._signer))
            self._asked.set()

    async def _renew(self) -> None:
        """Say again and again that events are wanted, and to who asks, until the connection ends."""
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(self._connection.ended())
            saying = group.create_task(self._say_again())
            await asyncio.wait({ended, saying}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            saying.cancel()
        self.close()

    async def _say_again(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RENEWED):
                    await self._asked.wait()
            self._asked.clear()
            asked_by, self._asked_by = self._asked_by, set()
            try:
                async with asyncio.timeout(_TELLING):
                    if not asked_by:
                        await self._wish()
                    for address in asked_by:
                        await self._bus.tell(address, WISHES, self._packed(WISH))
                self._complaint.withdraw()
            except (OperationalError, TimeoutError) as exc:
                self._complaint.make(exc)

    async def _wish(self) -> None:
        await self._bus.tell_all(WISHES, self._packed(WISH))

    def _packed(self, seconds: float) -> bytes:
        return pack_wish(Wish(self._bus.address, seconds, self._asks), self._signer)


def _close_in(loop: asyncio.AbstractEventLoop, feed: _Feed) -> None:
    with suppress(RuntimeError):  # the loop is closed, and so is the bus
        loop.call_soon_threadsafe(feed.close)


def _checked_types(types: Sequence[str] | None) -> Sequence[str] | None:
    if types is None:
        return None
    found = [types] if isinstance(types, str) else list(types)
    if not found or not all(is_name(each) for each in cast("list[object]", found)):
        raise InvalidOption(f"capture: types is a list of events' names, or globs of them: {types!r}")
    return found
