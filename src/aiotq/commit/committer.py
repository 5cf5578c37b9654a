"""The contract of a commit: outcome, settlement, arrivals at joins and next messages are written in one step (P3).

The step is atomic if broker, records and ledger are one system (memory, one SQLite file, one Redis), and ordered and
idempotent otherwise (`ordered`).
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Sequence
from typing import Final

from ..core.values import value
from ..exceptions import Refused
from ..results.fleet import FleetRow
from ..results.ledger import NO_JOIN_CHANGES, JoinChanges, Ledger, ScheduleChange, check_join_changes
from ..results.records import Record
from ..results.revocations import is_among, keys_of
from ..transport.broker import ACK, Consumer, Delivery, Settlement
from ..wire.message import Envelope

logger = logging.getLogger("aiotq.worker")


@value
class Finish:
    """All that is written when a task ends. `delivery` None: a workflow is sent, and no delivery is settled."""

    delivery: Delivery | None
    settlement: Settlement = ACK
    record: Record | None = None
    envelopes: tuple[Envelope, ...] = ()
    joining: JoinChanges = NO_JOIN_CHANGES
    further: tuple[Record, ...] = ()  #: records of tasks that will never run because this one failed
    #: The periodic task whose occurrence is sent, without a delivery: nothing is written if the change is refused.
    schedule: ScheduleChange | None = None


@value
class Committed:
    """The finish has been written."""


@value
class LostLease:
    """The lease of the delivery was lost, or the change of a schedule refused; nothing of this finish was written."""


COMMITTED: Final = Committed()
LEASE_LOST: Final = LostLease()
#: What became of a finish. `Refused` as an answer: of what it says something will never be taken, which was known after
#: some of it was written; what is committed next for its delivery is written in its place.
Answer = Committed | LostLease | Refused


@value
class Admission:
    """The deliveries of an intake batch that may start, and those that were revoked (to be finished as REVOKED)."""

    run: Sequence[Delivery]
    revoked: Sequence[Delivery] = ()


def admission(deliveries: Sequence[Delivery], revoked: Collection[str]) -> Admission:
    """Separate those of `deliveries` that are `revoked` (see `results.revocations`)."""
    if not revoked:
        return Admission(deliveries)
    run: list[Delivery] = []
    not_run: list[Delivery] = []
    for delivery in deliveries:
        (not_run if is_among(delivery.message, revoked) else run).append(delivery)
    return Admission(run, not_run)


def keys_of_all(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the keys of all revocations that would apply to one of `deliveries`."""
    return list({key: None for delivery in deliveries for key in keys_of(delivery.message)})


async def admitted(ledger: Ledger, deliveries: Sequence[Delivery]) -> Admission:
    """Ask `ledger` which of `deliveries` are revoked. Without any revocation one small request is enough."""
    if not deliveries or not await ledger.has_revocations():
        return Admission(deliveries)
    return admission(deliveries, await ledger.revoked(keys_of_all(deliveries)))


class Committer(abc.ABC):
    """Writes finishes to a broker, a record store and a ledger."""

    #: The worker's consumer, whose leases `renew` renews. A process that only sends has none.
    consumer: Consumer | None = None

    @abc.abstractmethod
    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        """Decide which deliveries of an intake batch may start.

        A delivery that ran before and only lost its acknowledgement is settled here and not returned. A delivery that
        another live worker runs is handed back with a delay and not returned.
        """

    def know_dead(self, holder: str) -> None:  # noqa: B027  # most brokers fence: they need not be told
        """Note that the process of `holder` is gone: what it claimed may run again at once."""

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        """Renew the leases of `held` and return the lost ones. Blocking: the heartbeat thread calls it (P2).

        `row` is written into the fleet registry, in the same request where broker and ledger are one system. Should
        that fail alone, it is logged, and the leases are renewed.

        Raises:
            ConnectionLost: the leases may or may not have been renewed.
        """
        lost = self.consumer.renew(held) if self.consumer is not None else ()
        self._write_row(row)
        return lost

    @abc.abstractmethod
    def _renew_row(self, row: FleetRow) -> None:
        """Write `row` into the fleet registry alone; blocking."""

    def _write_row(self, row: FleetRow | None) -> None:
        if row is None:
            return
        try:
            self._renew_row(row)
        except Exception as exc:  # what is lost is known by now, and must be told
            logger.warning("the row in the fleet registry could not be written, trying again: %s", exc)

    async def commit(self, group: Sequence[Finish]) -> Sequence[Answer]:
        """Write all finishes of `group`, and answer for each. One lost lease never fails the others.

        Records are pushed to the callers that wait for them. Repeating a group after a lost reply has no further effect
        (a finish that was written the first time may answer `LostLease`, since its lease is settled).

        Raises:
            ConnectionLost: some may have been written; repeat the group.
            Refused: one of them can never be written; repeating is safe, with each alone.
            ValueError: one of them can't be written; none was.
        """
        for finish in group:
            check_join_changes(finish.joining, finish.record)
            if finish.schedule is not None and finish.delivery is not None:
                raise ValueError(f"a delivery can't be settled with a change of the schedule {finish.schedule.name!r}")
        return await self._commit(group) if group else ()

    @abc.abstractmethod
    async def _commit(self, group: Sequence[Finish]) -> Sequence[Answer]:
        """Write `group`, which is not empty and has been checked; see `commit`."""
