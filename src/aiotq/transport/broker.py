"""The contract of a broker: envelopes go in, deliveries come out under a lease, each is settled once.

A transport knows nothing of tasks: a body is bytes. What it promises: what `send` accepted is never lost (P1), a live
holder's delivery is nobody else's (P2), what is due later waits here and not in a worker (P4), and what can't be read
becomes a dead letter and not an exception in somebody's loop (P5).
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

LOWEST_PRIORITY: Final = 0
HIGHEST_PRIORITY: Final = 9
#: Every n-th fetch starts with the lowest priority, so that nothing waits for ever.
FAIR_EVERY: Final = 16
#: A message whose holder died this often is a suspect: it runs only where no other suspect runs (P5).
SUSPECT_DEATHS: Final = 2


@value(eq=False)
class Delivery:
    """A message in our hands, to be settled exactly once.

    `lease` names this one holding of it: a stray given back to the queue comes again under another lease, so that
    whoever held it before can't settle it. `read_at` is the monotonic time at which the read was issued.
    `deaths` counts holders that died with it, `charges` those deaths it alone was to blame for, `returns` how
    often it was handed back.
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
        """Whether it may be what killed its holders."""
        return self.deaths >= SUSPECT_DEATHS


@value
class Acknowledge:
    """Done with it."""


@value
class HandBack:
    """Somebody else may run it: now, and before newer ones, or `delay` seconds from now."""

    delay: float = 0.0


@value
class GiveUp:
    """Nobody should run it: to the dead letters. `reason` is one word, `detail` is for people."""

    reason: str
    detail: str = ""


Settlement = Acknowledge | HandBack | GiveUp
ACK: Final = Acknowledge()


@value
class DeadLetter:
    """A message that was given up. `message` is None when it could not be read; `raw` is what came."""

    key: str
    queue: str
    priority: int
    message: Message | None
    raw: bytes
    reason: str
    detail: str
    died_at: float
    deaths: int = 0


@value
class QueueStats:
    """What stands in one queue: counts, and the age of the oldest message that is ready, in seconds."""

    name: str
    ready: int
    leased: int
    delayed: int
    dead: int
    oldest_age: float | None = None


@value
class QueueOrder:
    """In which order a consumer looks into its queues.

    They take turns; from one with a weight of 3 three times as much is taken as from one with 1, which those have that
    `weights` does not name, as long as both have something. If `is_strict`, they are always in the order given, and a
    queue is looked into only when those before it have nothing more, whatever the priorities: the last may starve.
    """

    weights: Mapping[str, int] = field(default_factory=dict[str, int])
    is_strict: bool = False


FAIR: Final = QueueOrder()


class Turns(Generic[T]):
    """Things by the names of their queues, in the order for the next read: `items`.

    Each queue is charged for what was taken from it, in inverse proportion to its weight, and the one with the least
    charges is next. One that had nothing does not save up.

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
        """Have the next one be first: a read took messages out of the queues `taken`, each named for each message."""
        if not self._costs:
            return
        counts = Counter(taken)
        now = min(self._charges[name] for name in counts)
        for name, charges in self._charges.items():
            self._charges[name] = max(charges, now) + counts[name] * self._costs[name]
        self.items = [self._given[name] for name in sorted(self._charges, key=self._charges.__getitem__)]


class Consumer(abc.ABC):
    """One worker's hold on some queues; its leases end `lease` seconds after the last renewal."""

    @abc.abstractmethod
    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        """Return up to `limit` deliveries, waiting at most `wait` seconds for the first.

        Handed-back ones come first, then by priority (9 to 0) and age; every `FAIR_EVERY`-th read starts from the
        lowest priority. Queues are looked into in the order of `QueueOrder`. At most one of them is a suspect, and none
        when `suspect` is false. What is due is moved to its queue first. What can't be read goes to the dead letters,
        with a log line.
        Cancelled, it either took nothing or gives back what it took.

        Raises:
            ConnectionLost: the broker did not answer; asking again is safe.
        """

    @abc.abstractmethod
    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """Move the end of these leases to `lease` seconds from now; return those that are lost.

        Blocking, called by a thread of the worker with a connection that is this method's own, so that a blocked
        loop keeps its leases.

        Raises:
            ConnectionLost: unknown whether they were renewed.
        """

    @abc.abstractmethod
    async def reclaim(self) -> int:
        """Give back the deliveries of dead holders (strays), whoever they were; return how many.

        Each gains one death. If exactly one of a dead holder's deliveries was a suspect, that one is charged. Both
        are taken back when the holder turns out to be alive (its next `renew`). Whether a delivery was charged too
        often is for whoever receives it to say.
        """


class Broker(abc.ABC):
    """A broker. Used as an async context manager: connected when entered, nothing of it runs when left.

    One with `counts_deaths` False can't tell who died with what, knows no message by its id, and delivers again
    whatever a lost connection held: then the results store's claims tell what runs elsewhere or ran, and count.
    """

    counts_deaths: bool = True
    #: Whether what waits for its due time can be made due earlier.
    can_make_due_now: bool = False

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abc.abstractmethod
    async def send(self, batch: Sequence[Envelope]) -> None:
        """Give `batch` to the broker, all or nothing; on return it survives whatever the broker survives.

        Order is kept within one queue and priority. An envelope with `due` in the future stays in the broker until
        then. A message whose `key` (id and attempt) is still in the broker is not added again, so that a
        repeat after a lost reply is harmless.

        Raises:
            ConnectionLost: no answer came; the batch may be in the broker.
            OperationalError: nothing was sent.
        """

    async def connected(self) -> None:
        """Return when there is a connection to send on, soon; for brokers that have one.

        Raises:
            NotConnected: there is none: nothing would be sent.
        """
        return

    @abc.abstractmethod
    def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AbstractAsyncContextManager[Consumer]:
        """Consume from `queues` in `order` as `name` (unique to one worker's life).

        Entering connects; leaving hands back at once what was received and never settled, not counting a death.
        """

    @abc.abstractmethod
    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        """Settle deliveries; False for those whose lease was lost (nothing was done for them).

        Raises:
            ConnectionLost: unknown which were settled; repeating is safe (those settled answer False).
        """

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """Make messages, named by id and attempt, due now; False for one that does not wait for its due time.

        Raises:
            ConnectionLost: unknown which; repeating is safe.
        """
        return [False] * len(keys)

    @abc.abstractmethod
    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        """Return what stands in `queues` (default: all that hold anything), by name."""

    @abc.abstractmethod
    async def purge(self, queue: str) -> int:
        """Delete what is ready or delayed in `queue` (not what is held); return how many."""

    @abc.abstractmethod
    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        """Return the newest dead letters first."""

    @abc.abstractmethod
    async def dead_letter(self, key: str) -> DeadLetter | None:
        """Return one dead letter by its key or its task's id."""

    @abc.abstractmethod
    async def replay(self, keys: Sequence[str]) -> int:
        """Send dead letters to their queues again, with no deaths to their name; return how many.

        One whose message could not be read stays, and is not counted.
        """

    @abc.abstractmethod
    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        """Delete dead letters (those that died before wall time `before`); return how many."""
