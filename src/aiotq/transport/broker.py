"""The contract of a broker: envelopes go in, deliveries come out under a lease, each delivery is settled once.

A broker knows no tasks: a body is bytes. It promises that an accepted message is never lost (P1), that a live worker's
delivery is given to no other worker (P2), that delayed messages wait in the broker and not in a worker (P4), and that
an unreadable message becomes a dead letter and not an exception in a worker's loop (P5).
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Final, Generic, Self, TypeVar

from ..core.values import value
from ..wire.message import Envelope, Message

T = TypeVar("T")

#: Characters of what is said of a dead letter: brokers keep it in a header, beside those of the message.
MAX_DETAIL: Final = 4096

LOWEST_PRIORITY: Final = 0
HIGHEST_PRIORITY: Final = 9
#: Every n-th read begins with the lowest priority, so that no message waits for ever.
FAIR_EVERY: Final = 16
#: A message with this many deaths of workers is a suspect: a worker runs it only if it runs no other suspect (P5).
SUSPECT_DEATHS: Final = 2


@value(eq=False)
class Delivery:
    """A message that a worker holds, to be settled exactly once.

    `lease` identifies this delivery. A stray that returns to the queue is delivered again under another lease, so its
    previous holder can't settle it. `read_at` is the monotonic time at which the read was issued. `deaths` counts
    workers that died while they held the message, `charges` counts those deaths that it was charged with, `returns`
    how often it was handed back.
    """

    message: Message
    queue: str
    priority: int
    lease: int | str
    read_at: float
    deaths: int = 0
    charges: int = 0
    returns: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether it may have killed its workers."""
        return self.deaths >= SUSPECT_DEATHS


@value
class Acknowledge:
    """The message is done: delete it."""


@value
class HandBack:
    """Return the message to its queue: to the front now, or `delay` seconds from now."""

    delay: float = 0.0


@value
class GiveUp:
    """Make the message a dead letter. `reason` is one word, `detail` at most `MAX_DETAIL` characters for people."""

    reason: str
    detail: str = ""


Settlement = Acknowledge | HandBack | GiveUp
ACK: Final = Acknowledge()


@value
class DeadLetter:
    """A message that was given up. `message` is None if it could not be read; `raw` has its bytes."""

    key: str
    queue: str
    priority: int
    message: Message | None
    raw: bytes
    reason: str
    detail: str
    died_at: float
    deaths: int = 0


#: Under this name a broker tells of what is delayed in all queues together, if it can't tell them apart.
ALL_DELAYED: Final = "aiotq.delay"


@value
class QueueStats:
    """The numbers of messages in one queue, and the age in seconds of the oldest message that is ready.

    `paused_since` is the wall time since when no worker is to take from it; a broker does not know that.
    """

    name: str
    ready: int
    leased: int
    delayed: int
    dead: int
    oldest_age: float | None = None
    paused_since: float | None = None


@value
class QueueOrder:
    """The order in which a consumer reads its queues.

    The queues take turns. From a queue with weight 3 three times as many messages are taken as from one with weight 1,
    while both have some. Queues that `weights` does not name have weight 1. If `is_strict`, the order is as given: a
    queue is read only when all queues before it are empty, whatever the priorities. The last queue may starve.
    """

    weights: Mapping[str, int] = field(default_factory=dict[str, int])
    is_strict: bool = False


FAIR: Final = QueueOrder()


class Turns(Generic[T]):
    """Objects by the names of their queues; `items` has them in the order for the next read.

    Each queue is charged for the messages taken from it, in inverse proportion to its weight. The queue with the least
    charges is next. An empty queue does not save up charges.

    Source: Waldspurger and Weihl, "Stride Scheduling" (1995).
    """

    __slots__ = ("_charges", "_costs", "_given", "items")

    def __init__(self, given: Mapping[str, T], order: QueueOrder) -> None:
        self._given = dict(given)
        self.items = list(self._given.values())
        weights = {name: order.weights.get(name, 1) for name in self._given}
        whole = math.lcm(*weights.values())
        is_fixed = order.is_strict or len(weights) < 2
        self._costs = {} if is_fixed else {name: whole // weight for name, weight in weights.items()}
        self._charges = dict.fromkeys(self._given, 0)

    def advance(self, taken: Iterable[str]) -> None:
        """Reorder `items` after a read. `taken` has the queue's name once for each message that was taken."""
        if not self._costs:
            return
        counts = Counter(taken)
        now = min(self._charges[name] for name in counts)
        for name, charges in self._charges.items():
            self._charges[name] = max(charges, now) + counts[name] * self._costs[name]
        self.items = [self._given[name] for name in sorted(self._charges, key=self._charges.__getitem__)]


class Consumer(abc.ABC):
    """One worker's reads from some queues. Its leases end `lease` seconds after the last renewal."""

    @abc.abstractmethod
    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        """Return up to `limit` deliveries, waiting at most `wait` seconds for the first.

        Messages that were handed back come first, then by priority (9 to 0) and age. Every `FAIR_EVERY`-th read begins
        with the lowest priority. Queues are read in the order of `QueueOrder`. At most one delivery is a suspect, and
        none if `suspect` is False. Messages that became due are moved to their queues first. Unreadable messages become
        dead letters, with a log line. When cancelled, it has taken no messages, or hands back those it took.

        Raises:
            ConnectionLost: the broker did not answer; reading again is safe.
        """

    @abc.abstractmethod
    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """Renew these leases to end `lease` seconds from now; return those that are lost.

        Blocking. A thread of the worker calls it, and it has a connection of its own, so that a worker with a blocked
        loop keeps its leases.

        Raises:
            ConnectionLost: the leases may or may not have been renewed.
        """

    @abc.abstractmethod
    async def read_from(self, queues: Sequence[str]) -> None:
        """Read from `queues` from now on, in the order that was asked for when it began.

        What is held stays held, whichever queue it is from. Not to be called while a `receive` is under way. Without
        any queue nothing is taken, and `receive` is not to be called until there is one.

        Raises:
            ConnectionLost: calling again is safe.
        """

    @abc.abstractmethod
    async def reclaim(self, dead: Collection[str] = ()) -> int:
        """Return the deliveries of all dead workers (strays) to their queues; return how many.

        Dead is a worker whose lease has ended; and at once all consumers that were given one of the names `dead`,
        whose processes are known to be gone.

        Each gets one more death. If exactly one delivery of a dead worker was a suspect, it is charged. Deaths and
        charges are taken back if the worker turns out to be alive (at its next `renew`). The worker that gets a
        delivery decides whether it was charged too often.
        """


class Broker(abc.ABC):
    """A broker. It is an async context manager: connected when entered, without running parts when left.

    A broker with `counts_deaths` False can't tell which worker died with which message, does not know messages by their
    ids, and delivers again all messages of a lost connection. Then claims in the results store say which tasks run or
    ran elsewhere, and count the deaths.
    """

    counts_deaths: bool = True
    #: Whether a delayed message can be made due earlier.
    can_make_due_now: bool = False
    #: Whether it can list its queues, and what is delayed in them.
    can_list: bool = True

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abc.abstractmethod
    async def send(self, batch: Sequence[Envelope]) -> None:
        """Send `batch` to the broker, all or nothing. On return it is as durable as the broker's storage.

        Order is kept within one queue and priority. An envelope with `due` in the future waits in the broker until
        then. A message is not added if one with the same `key` (id and attempt) is still in the broker, so repeating
        after a lost reply is harmless.

        Raises:
            ConnectionLost: no reply arrived; the batch may be in the broker.
            Refused: some of it will never be taken. The messages in `.keys`, and all others were sent; if there are no
                `.keys`, nothing was sent.
            OperationalError: no message was sent.
        """

    async def connected(self) -> None:
        """Wait briefly for a connection to send on, for brokers that have one.

        Raises:
            NotConnected: there is no connection, so sending would fail.
        """
        return

    @abc.abstractmethod
    def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AbstractAsyncContextManager[Consumer]:
        """Consume from `queues` in `order` as `name`, which only this run of this worker uses.

        Entering connects. Leaving hands back all deliveries that were not settled at once, without counting a death.
        """

    @abc.abstractmethod
    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        """Settle deliveries. Return False for those whose lease was lost: they were not settled.

        Raises:
            ConnectionLost: some may have been settled; repeating is safe (for those it returns False).
            Refused: one of them can never be settled so; repeating is safe, with each alone.
        """

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """Make messages, given by id and attempt, due now. Return False for each that is not waiting for its due time.

        Raises:
            ConnectionLost: some may have been made due; repeating is safe.
        """
        return [False] * len(keys)

    async def delayed(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        """Return what waits in `queue` for its due time, the first to be due in front.

        What can't be read is left out. A broker that can't list (`can_list`) returns nothing.
        """
        return ()

    async def ready(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        """Return what is ready in `queue` and nobody has taken, in about the order in which it will be.

        What can't be read is left out. A broker that can't list (`can_list`) returns nothing.
        """
        return ()

    async def remove_delayed(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """Delete messages, given by id and attempt, that wait for their due time; False for each that does not.

        Raises:
            ConnectionLost: some may have been deleted; repeating is safe.
        """
        return [False] * len(keys)

    @abc.abstractmethod
    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Add dead letters of another broker, the oldest first; their keys are others here.

        Raises:
            ConnectionLost: some may have been added; repeating adds them again.
        """

    @abc.abstractmethod
    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        """Return the numbers of messages in `queues` (default: all that are not empty), sorted by name."""

    @abc.abstractmethod
    async def purge(self, queue: str) -> int:
        """Delete the ready and delayed messages of `queue`, but not deliveries that workers hold; return how many."""

    @abc.abstractmethod
    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        """Return the newest dead letters first."""

    @abc.abstractmethod
    async def dead_letter(self, key: str) -> DeadLetter | None:
        """Return one dead letter by its key or its task's id."""

    @abc.abstractmethod
    async def replay(self, keys: Sequence[str]) -> int:
        """Send dead letters to their queues again, with their deaths reset; return how many.

        A dead letter without a readable message stays, and is not counted.
        """

    @abc.abstractmethod
    async def remove_dead(self, keys: Sequence[str]) -> int:
        """Delete dead letters by their keys; return how many there were."""

    @abc.abstractmethod
    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        """Delete dead letters (only those that died before wall time `before`); return how many."""
