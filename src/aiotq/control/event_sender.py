"""Sends the events of one process to those who want them, in batches; nothing is made or sent while nobody does (P10).

What can't be sent in time, or is too much, is dropped and counted, and the count is an event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from ..core.clock import Clock
from ..core.logs import WarnOnce
from ..exceptions import BadSignature, MalformedMessage, OperationalError, Unsigned
from ..wire.signing import Signer
from .bus import Bus
from .event_format import (
    DROPPED,
    EVENTS,
    QUESTION,
    WISHES,
    Common,
    Item,
    expanded,
    pack_events,
    pack_question,
    unpack_wish,
)

logger = logging.getLogger("aiotq.events")

#: Seconds for which events gather before they are sent, and how many are sent at once without waiting for that.
_GATHER: Final = 0.1
_ENOUGH: Final = 500
#: Events that wait to be sent, at most.
MOST_WAITING: Final = 20_000
#: Processes that may want events at a time.
_MOST_READERS: Final = 64
#: Seconds that one batch may take to be sent, and that all which is left may take when the process ends.
_SENDING: Final = 5.0
_LAST: Final = 1.0


class EventOutlet(Protocol):
    """Where events go beside the bus: Celery's exchange."""

    async def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish events in Celery's format; raises `OperationalError` when that can't be done."""
        ...


class EventSender:
    """Gathers what is given to `add` while `is_on`, and sends it as long as `run` lasts.

    It is on while a reader asks, or while it is `enabled` and somebody takes events: a reader who does not ask, or the
    `outlet`. `on_change` is told when that changes; `gather` is called before each batch, to add what it knows.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        hostname: str,
        clock: Clock,
        signer: Signer | None,
        outlet: EventOutlet | None = None,
        on_change: Callable[[bool], None] = lambda is_on: None,
        gather: Callable[[], None] = lambda: None,
    ) -> None:
        self.common = Common.here(hostname)
        self.is_on = False
        self.has_new_reader = False  #: who is to be told what all others know
        self.waiting: list[Item] = []
        self.counts: Counter[str] = Counter()  #: of wishes that were refused, and of events sent and dropped
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._signer = signer
        self._outlet = outlet
        self._on_change = on_change
        self._gather = gather
        self._enabled = False
        self._readers: dict[str, tuple[float, bool]] = {}  #: by address: until when (loop time), and whether it asks
        self._dropped = 0  #: since it was last told
        self._logical = 1
        self._changed = asyncio.Event()
        self._enough = asyncio.Event()
        self._complaint = WarnOnce(logger, "events could not be sent and are dropped")

    @property
    def enabled(self) -> bool:
        """Whether events are sent to those who don't ask for them, too."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        self._see_who_wants()

    def add(self, item: Item) -> None:
        """Have `item` sent, unless too much waits; called in the loop."""
        waiting = self.waiting
        if len(waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        waiting.append(item)
        if len(waiting) == _ENOUGH:
            self._enough.set()

    def add_event(self, kind: str, **fields: Any) -> None:
        """Have an event sent that happens now."""
        self.add({"type": kind, "timestamp": self._clock.time(), **fields})

    def add_from_anywhere(self, item: Item) -> None:
        """As `add`, in any thread; nothing happens while nobody wants events."""
        if self.is_on:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._add_if_on, item)

    def _add_if_on(self, item: Item) -> None:
        if self.is_on:
            self.add(item)

    async def run(self) -> None:
        """Send until cancelled."""
        ends = [self._bus.hear(WISHES, self._heard)]
        try:
            await self._ask_who_wants()
            while True:
                if not self.is_on:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GATHER):
                        await self._enough.wait()
                await self._send_all()
        finally:
            for end in ends:
                end()

    async def send_last(self) -> None:
        """Send what waits, for a moment: the process ends."""
        if self.is_on:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await self._send_all()

    async def _ask_who_wants(self) -> None:
        try:
            async with asyncio.timeout(_SENDING):
                await self._bus.tell_all(QUESTION, pack_question(self._bus.address, self._signer))
        except (OperationalError, TimeoutError) as exc:  # whoever wants events says so again
            logger.debug("nobody could be asked whether he wants events: %s", exc)

    def _heard(self, payload: bytes) -> None:
        try:
            wish = unpack_wish(payload, self._signer)
        except (Unsigned, BadSignature) as exc:
            self._refuse("refused", exc)
            return
        except MalformedMessage as exc:
            self._refuse("malformed", exc)
            return
        if wish.seconds <= 0:
            self._readers.pop(wish.address, None)
        elif wish.address in self._readers or len(self._readers) < _MOST_READERS:
            self.has_new_reader |= wish.address not in self._readers
            self._readers[wish.address] = asyncio.get_running_loop().time() + wish.seconds, wish.asks
        else:
            self._refuse("too many", f"{_MOST_READERS} others read events already")
        self._see_who_wants()

    def _refuse(self, why: str, what: object) -> None:
        self.counts[why] += 1
        if self.counts[why] == 1:
            logger.warning("a wish for events was not heeded (further ones are counted: %s): %s", why, what)

    def _see_who_wants(self) -> None:
        asks = any(asks for _, asks in self._readers.values())
        takes = bool(self._readers) or self._outlet is not None
        is_on = asks or (self._enabled and takes)
        if is_on is not self.is_on:
            self.is_on = is_on
            if not is_on:
                self.waiting.clear()
            self._on_change(is_on)
            self._changed.set()

    async def _send_all(self) -> None:
        now = asyncio.get_running_loop().time()
        for address in [address for address, (until, _) in self._readers.items() if until <= now]:
            del self._readers[address]
        self._see_who_wants()
        if not self.is_on:
            return
        self._gather()
        self._enough.clear()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.counts["dropped"] += dropped
            self.waiting.append({"type": DROPPED, "timestamp": self._clock.time(), "dropped": dropped})
        if not self.waiting:
            return
        items, self.waiting = self.waiting, []
        epoch = self._clock.time() - time.perf_counter()
        logical, self._logical = self._logical, self._logical + 3 * len(items)
        try:
            async with asyncio.timeout(_SENDING):
                await self._send(items, epoch, logical)
            self._complaint.withdraw()
        except (OperationalError, TimeoutError) as exc:
            self._dropped += len(items)
            self._complaint.make(exc)

    async def _send(self, items: list[Item], epoch: float, logical: int) -> None:
        if self._readers:
            sent = 0
            for payload, count in pack_events(items, self.common, epoch=epoch, clock=logical, signer=self._signer):
                sent += count
                for address in tuple(self._readers):
                    await self._tell(address, payload, count)
            self.counts["sent"] += sent
            self._dropped += len(items) - sent  # what has no form in JSON, or is too large
        if self._outlet is not None and self._enabled:
            await self._outlet.send(expanded(items, self.common, epoch=epoch, clock=logical))

    async def _tell(self, address: str, payload: bytes, count: int) -> None:
        """Send a batch. Who is gone, or does not read, gets none until he says again that he wants them."""
        dropped = self._bus.dropped
        await self._bus.tell(address, EVENTS, payload)
        if self._bus.dropped > dropped:
            self._readers.pop(address, None)
            self._dropped += count
