"""The contract of a commit: outcome, settlement, arrivals and what follows are one step (P3).

Atomic where broker, records and ledger are one (memory, one SQLite file, one Redis), ordered and idempotent elsewhere
(`ordered`).
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from typing import Final

from ..core.values import value
from ..results.ledger import NO_JOIN_CHANGES, JoinChanges, Ledger, check_join_changes
from ..results.records import Record
from ..results.revocations import is_among, keys_of
from ..transport.broker import ACK, Consumer, Delivery, Settlement
from ..wire.message import Envelope


@value
class Finish:
    """All that one finished task does to the world. `delivery` None: a workflow is sent, none is settled."""

    delivery: Delivery | None
    settlement: Settlement = ACK
    record: Record | None = None
    envelopes: tuple[Envelope, ...] = ()
    joining: JoinChanges = NO_JOIN_CHANGES
    further: tuple[Record, ...] = ()  #: of tasks that will never run because of how this one ended


@value
class Committed:
    """It is done, now and for ever."""


@value
class LostLease:
    """The delivery is somebody else's by now; nothing of this finish was done."""


COMMITTED: Final = Committed()
LEASE_LOST: Final = LostLease()


@value
class Admission:
    """What of an intake batch may start, and what was revoked before it could (to be finished as REVOKED)."""

    run: Sequence[Delivery]
    revoked: Sequence[Delivery] = ()


def admission(deliveries: Sequence[Delivery], revoked: Collection[str]) -> Admission:
    """Sort out which of `deliveries` are among the `revoked` (see `results.revocations`)."""
    if not revoked:
        return Admission(deliveries)
    run: list[Delivery] = []
    not_run: list[Delivery] = []
    for delivery in deliveries:
        (not_run if is_among(delivery.message, revoked) else run).append(delivery)
    return Admission(run, not_run)


def keys_of_all(deliveries: Sequence[Delivery]) -> list[str]:
    """Return all that may revoke one of `deliveries`."""
    return list({key: None for delivery in deliveries for key in keys_of(delivery.message)})


async def admitted(ledger: Ledger, deliveries: Sequence[Delivery]) -> Admission:
    """Ask `ledger` which of `deliveries` are revoked: mostly none is, and then little is asked."""
    if not deliveries or not await ledger.has_revocations():
        return Admission(deliveries)
    return admission(deliveries, await ledger.revoked(keys_of_all(deliveries)))


class Committer(abc.ABC):
    """Writes finishes to a broker, a record store and a ledger."""

    #: Whose leases `renew` renews: the worker's consumer, once it has one. Who only sends has none.
    consumer: Consumer | None = None

    @abc.abstractmethod
    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        """Sort out an intake batch before it starts.

        What ran before and only lost its acknowledgement is settled here and not returned; what a live
        worker runs is given back for later and not returned.
        """

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """Renew the leases of `held`, return the lost. Blocking: called by the heartbeat thread (P2).

        Raises:
            ConnectionLost: unknown whether they were renewed.
        """
        return self.consumer.renew(held) if self.consumer is not None else ()

    async def commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        """Do all of `group`, answering for each; one lost lease never fails its neighbours.

        Records are pushed to whoever waits for them. Repeating a group after a lost reply changes nothing (an
        item done the first time may answer `LostLease`, its lease being settled).

        Raises:
            ConnectionLost: unknown what was done; repeat it.
            ValueError: one can't be written; nothing was done.
        """
        for finish in group:
            check_join_changes(finish.joining, finish.record)
        return await self._commit(group) if group else ()

    @abc.abstractmethod
    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        """As `commit`, of one finish or more that can be written."""
