"""The queues that a worker takes from: what it was told to, but for those that are paused for all workers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from ..control.bus import Bus
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from ..results import Ledger
from ..results.ledger import PAUSED

logger = logging.getLogger("aiotq.worker")

#: Seconds between looks at what is paused, about: should whoever paused a queue have told us, and we have missed it.
_LOOK: Final = 5.0


class TakenQueues:
    """The names of one worker's queues. `on_change` is called when those that are `open` are others."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._paused: frozenset[str] = frozenset()
        self.on_change: Callable[[], None] = _nothing

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def open(self) -> tuple[str, ...]:
        """Those that may be taken from."""
        return tuple(name for name in self._names if name not in self._paused) if self._paused else self._names

    @property
    def paused(self) -> frozenset[str]:
        """Those that are paused for all workers."""
        return self._paused.intersection(self._names)

    def add(self, name: str) -> bool:
        """Take from `name` too; False if it is so already."""
        if name in self._names:
            return False
        self._change((*self._names, name), self._paused)
        return True

    def remove(self, name: str) -> bool:
        """Take from `name` no more; False if it is so already."""
        if name not in self._names:
            return False
        self._change(tuple(each for each in self._names if each != name), self._paused)
        return True

    async def look(self, ledger: Ledger) -> None:
        """See which queues are paused.

        Raises:
            OperationalError: that can't be known now.
        """
        if ledger.has_fleet:
            self._change(self._names, frozenset(await ledger.paused_queues()))

    async def watch(self, ledger: Ledger, bus: Bus) -> None:
        """See which queues are paused whenever somebody says that it has changed, until cancelled."""
        if ledger.has_fleet:
            await watched(bus, PAUSED, lambda: self.look(ledger), "which queues are paused")

    def _change(self, names: tuple[str, ...], paused: frozenset[str]) -> None:
        before = self.open
        paused_before = self.paused
        self._names, self._paused = names, paused
        for name in sorted(self.paused - paused_before):
            logger.warning("queue %r is paused: nothing is taken from it until somebody resumes it", name)
        for name in sorted(paused_before - self.paused):
            logger.info("queue %r is not paused any more", name)
        if self.open != before:
            self.on_change()


async def watched(bus: Bus, topic: str, look: Callable[[], Awaitable[None]], what: str) -> None:
    """Call `look` whenever somebody tells of `topic`, and now and then, until cancelled."""
    told = asyncio.Event()
    end = bus.hear(topic, lambda _: told.set(), told.set)
    complaint = WarnOnce(logger, f"{what} can't be known now")
    try:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK * random.uniform(0.7, 1.3)):
                    await told.wait()
            told.clear()
            try:
                await look()
                complaint.withdraw()
            except OperationalError as exc:
                complaint.make(exc)
            except Exception:  # a defect must not end the worker
                logger.exception("looking at %s failed, trying again", what)
    finally:
        end()


def _nothing() -> None:
    return
