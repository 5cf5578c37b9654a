"""Tasks that no code here is registered for: they are handed back for other workers, for a stated time (P5).

While a new version is rolled out some workers know a name and others don't yet. Who does not know it gives the message
back with a delay, so that somebody else gets it, and gives it up when it has come here for too long.
"""

from __future__ import annotations

import logging
import random
from typing import Final

from ..core.clock import Clock
from ..transport import Delivery
from ..wire.message import Message

logger = logging.getLogger("aiotq.worker")

#: Seconds before it comes again, doubled with each return up to the next: each time it is anybody's, so one worker of
#: twenty that knows it gets it after ten seconds in the mean.
_FIRST_DELAY: Final = 0.1
_USUAL_DELAY: Final = 0.5
#: Of the time that it has been coming here, what passes before it comes again: what nobody knows costs less and less.
_PART: Final = 1 / 60
#: What one worker hands on a second at most: a flood of unknown tasks costs less than a hundredth of a core.
_RATE: Final = 100.0
#: Messages whose first arrival is remembered; of those beyond, the time they were sent decides.
_MOST_REMEMBERED: Final = 100_000
#: Returns that a message has made at least before the time it was sent decides: it may have waited for long unread.
_LEAST_RETURNS: Final = 3


class UnknownTasks:
    """The unknown tasks that came to one worker."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._first_seen: dict[tuple[str, int], float] = {}  #: message key -> monotonic time, oldest first
        self._next_turn = 0.0
        self._warned: set[str] = set()

    def delay(self, delivery: Delivery) -> float | None:
        """Return the seconds after which somebody else should have `delivery`; None: it came here for long enough."""
        now = self._clock.monotonic()
        self._forget(now)
        elapsed = now - self._since(delivery, now)
        left = self._timeout - elapsed
        if left <= 0:
            self._first_seen.pop(delivery.message.key, None)
            return None
        self._warn(delivery.message)
        turn = max(self._next_turn, now)
        self._next_turn = turn + 1 / _RATE
        delay = min(_FIRST_DELAY * 2.0 ** min(delivery.returns, 20), max(_USUAL_DELAY, elapsed * _PART))
        return min(max(delay * random.uniform(0.75, 1.25), turn - now), left)

    def _since(self, delivery: Delivery, now: float) -> float:
        """Return the monotonic time from which the end is counted."""
        message = delivery.message
        if (first := self._first_seen.get(message.key)) is not None:
            return first
        if len(self._first_seen) < _MOST_REMEMBERED:
            self._first_seen[message.key] = now
            return now
        if delivery.returns < _LEAST_RETURNS:
            return now
        return now - (self._clock.time() - max(message.sent_at or 0.0, message.eta or 0.0))

    def _forget(self, now: float) -> None:
        """Forget what did not come again: somebody knew it."""
        oldest = now - 2 * self._timeout
        while self._first_seen:
            key, first = next(iter(self._first_seen.items()))
            if first > oldest:
                break
            del self._first_seen[key]

    def _warn(self, message: Message) -> None:
        """Say once which name is unknown here, and who sent it."""
        name = message.task
        if name not in self._warned and len(self._warned) < _MOST_REMEMBERED:
            self._warned.add(name)
            logger.warning(
                "no task is registered as %r in this worker: handing it on to other workers; after %g s it becomes a "
                "dead letter (logged once). It was sent by %s: if that belongs to another app on this broker, give "
                "each app a task_default_queue of its own",
                name,
                self._timeout,
                f"process {message.origin}" if message.origin else "a process that does not say its name",
            )
