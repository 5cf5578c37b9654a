"""The memory broker of a test: it tells what is sent, and whether anything is left to do now."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from ..backends.memory.queues import MemoryQueues
from ..transport import Delivery, HandBack, Settlement
from ..wire.message import Envelope
from .clock import SAME, SteppingClock

#: A worker hands back for less than this what it has no slot for just now: that passes in real time, by itself.
_ONLY_FOR_A_MOMENT: Final = 0.5


class WatchedQueues(MemoryQueues):
    """A broker whose consumers take from every queue there is, or only from those called in `only`.

    `on_sent` is told each envelope with the time; `on_change` is called when there may be less to do. Both are called
    under the lock, in any thread.
    """

    def __init__(
        self,
        clock: SteppingClock,
        *,
        only: Collection[str] | None,
        on_sent: Callable[[Envelope, float], None],
        on_change: Callable[[], None],
        dead_letter_expires: float,
    ) -> None:
        super().__init__(clock=clock, dead_letter_expires=dead_letter_expires)
        self._only = only
        self._on_sent = on_sent
        self._on_change = on_change
        self._who_waits: set[Any] = set()

    def queue(self, name: str) -> Any:
        queue = super().queue(name)
        if self._only is None:
            queue.waiters = self._who_waits  # a consumer that waits for one queue waits for all
        return queue

    def add(self, batch: Iterable[Envelope]) -> None:
        fresh = [envelope for envelope in batch if envelope.message.key not in self._known]
        super().add(fresh)
        for envelope in fresh:
            self._on_sent(envelope, self.clock.time())
        self._on_change()

    def take(
        self,
        queues: Sequence[Any],
        order: Sequence[int],
        limit: int,
        suspect: bool,
        holder: Any,
        *,
        is_strict: bool = False,
    ) -> list[Delivery]:
        chosen = queues if self._only is not None else [*self._queues.values()]
        return super().take(chosen, order, limit, suspect, holder, is_strict=is_strict)

    def next_due(self, queues: Sequence[Any]) -> float | None:
        return super().next_due(queues if self._only is not None else [*self._queues.values()])

    def settle(self, delivery: Delivery, settlement: Settlement) -> bool:
        if isinstance(settlement, HandBack) and settlement.delay < _ONLY_FOR_A_MOMENT:
            settlement = HandBack()
        is_settled = super().settle(delivery, settlement)
        self._on_change()
        return is_settled

    def make_due_now(self, key: tuple[str, int]) -> bool:
        is_there = super().make_due_now(key)
        self._on_change()
        return is_there

    def purge(self, name: str) -> int:
        purged = super().purge(name)
        self._on_change()
        return purged

    def first_due(self) -> float | None:
        """Return when the first of what is delayed, in queues that are consumed, is due."""
        return super().next_due(self._consumed())

    def running(self) -> list[Any]:
        """Return the messages that a worker has."""
        return [entry.message for entry in self._held.values()]

    def ready(self) -> list[Any]:
        """Return the messages that a worker could have now."""
        now = self.clock.time() + SAME
        return [
            entry.message
            for queue in self._consumed()
            for entry in (*queue.ready(), *(entry for due, _, entry in queue.delayed if due <= now))
        ]

    def delayed(self) -> list[tuple[float, Envelope]]:
        """Return what is due later, with its time, the first first; in queues that nobody consumes as well."""
        now = self.clock.time() + SAME
        found = [delayed for queue in self._queues.values() for delayed in queue.delayed if delayed[0] > now]
        ordered = heapq.nsmallest(len(found), found)
        return [(due, Envelope(entry.message, entry.queue.name, entry.priority, due)) for due, _, entry in ordered]

    def _consumed(self) -> list[Any]:
        return [queue for name, queue in self._queues.items() if self._only is None or name in self._only]
