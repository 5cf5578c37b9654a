"""The thread that keeps a worker's leases and watches its loop (P2).

It renews with a connection of its own, so that a task which blocks the loop keeps its lease; and it says which task
that is.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from anyio import to_thread

from ..control.presence import Blocked
from ..core.logs import WarnOnce
from ..exceptions import AioTQError
from ..transport import Delivery

logger = logging.getLogger("aiotq.worker")

#: Renewals in one lease, so that one or two that fail cost nothing.
_RENEWALS: Final = 3
_TICK: Final = 0.25
#: Seconds between two looks at what runs: only what is there both times blocks the loop, and is named.
_SECOND_LOOK: Final = 0.05


class Lifeline:
    """Renews leases from a thread while entered; `on_lost` is called in the loop with deliveries lost for good.

    `on_blocked` is called in the thread when the loop is blocked for `loop_lag` seconds, and with None when it turns
    again.
    """

    def __init__(
        self,
        renew: Callable[[Collection[Delivery]], Collection[Delivery]],
        held: Mapping[int | str, Delivery],
        *,
        lease: float,
        loop_lag: float,
        on_lost: Callable[[Collection[Delivery]], None],
        on_blocked: Callable[[Blocked | None], None],
    ) -> None:
        self._renew = renew
        self._held = held
        self._lease = lease
        self._interval = lease / _RENEWALS
        self._loop_lag = loop_lag
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self._blocked: Blocked | None = None
        self._stop = threading.Event()
        self._ticked_at = self._renewed_at = time.monotonic()
        self._warned = False
        self._complaint = WarnOnce(logger, "leases could not be renewed")

    @property
    def is_late(self) -> bool:
        """Whether our own leases may have ended, this process having been suspended or kept from renewing them."""
        return time.monotonic() >= self._renewed_at + self._lease

    @property
    def lag(self) -> float:
        """Seconds by which the loop is late now."""
        return max(0.0, time.monotonic() - self._ticked_at - _TICK)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._tick()
        self._thread = threading.Thread(target=self._work, name="aiotq.lifeline", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ticker.cancel()
        await to_thread.run_sync(self._thread.join)

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        self._ticker = self._loop.call_later(_TICK, self._tick)

    def _work(self) -> None:
        renew_at = time.monotonic() + self._interval
        while not self._stop.wait(max(0.0, min(renew_at - time.monotonic(), self._loop_lag / 2))):
            try:
                if time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + self._interval
                    self._renew_all()
                self._watch()
            except Exception:  # not even a logging handler of the user's may end it: every lease would
                with suppress(Exception):
                    logger.exception("the lifeline failed, trying again")

    def _renew_all(self) -> None:
        began = time.monotonic()
        try:
            lost = self._renew(list(self._held.values()))
        except AioTQError as exc:
            self._complaint.make(exc)
            return
        except Exception:  # without this thread every lease ends
            logger.exception("leases could not be renewed, trying again")
            return
        self._complaint.withdraw()
        self._renewed_at = began
        if lost:
            self._loop.call_soon_threadsafe(self._on_lost, lost)

    def _watch(self) -> None:
        lag = time.monotonic() - self._ticked_at
        if lag < self._loop_lag + _TICK:
            self._warned = False
            if self._blocked is not None:
                self._blocked = None
                self._on_blocked(None)
            return
        if self._warned:
            return
        self._warned = True
        ticked_at, culprit = self._ticked_at, asyncio.current_task(self._loop)
        self._stop.wait(_SECOND_LOOK)
        if self._ticked_at != ticked_at or asyncio.current_task(self._loop) is not culprit:
            logger.warning("the event loop was %.1f s late: it has more work than it can do", lag)
            return
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]  # documented
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        logger.warning(
            "the event loop has been blocked for %.1f s by %s: use await, a plain function (thread) or "
            'run="process" there. Its stack:\n%s',
            lag,
            name := culprit.get_name() if culprit is not None else "a callback",
            stack,
        )
        self._blocked = Blocked(name, time.time() - lag, stack)
        self._on_blocked(self._blocked)
