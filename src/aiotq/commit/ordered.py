"""The commit of any broker with any store: three idempotent steps, none of which can be lost (P3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from ..clock import SYSTEM_CLOCK, Clock
from ..message import Envelope
from ..results.base import AlreadyDone, Claimed, Closing, HeldElsewhere, ResultStore
from ..transport.base import ACK, Delivery, HandBack, Settlement, Transport
from .base import COMMITTED, LEASE_LOST, Admission, Committed, Committer, Finish, LostLease

#: A delivery whose claim is about to end is parked at least this long: the claim may end a moment later by
#: another clock.
_SHORTEST_PARKING: Final = 0.05


class OrderedCommitter(Committer):
    """Writes finishes to a transport and a store which can't share a transaction.

    Before a delivery runs, `holder` claims its message in the store for `lease` seconds, and that claim,
    renewed with the lease, is the right to run it. Whoever dies leaves the delivery unsettled, so it comes
    again when the lease ends, to whoever then finds the claim as it was left. A finish is written in three
    steps:

    1. the store closes the claim: outcome, arrivals, new joins and all that is to be sent now are kept in
       one step;
    2. what is to be sent goes to the broker;
    3. the delivery is settled.

    The process dies or is cut off ...

    - before 1: the claim ends, and the message runs again. Nothing came of the first run.
    - during 1, the answer lost: it was written or not; so this is one of the cases beside it.
    - between 1 and 2: whoever gets the message again finds its claim done, sends what was kept with it and
      acknowledges. It runs no task, and computes nothing anew: a retry keeps its delay, a chain its ids.
    - between 2 and 3: the same, and what is sent a second time is either still in the broker, which drops
      it, or has a claim of its own, which says that it runs or ran. An arrival was counted in step 1 and is
      not repeated.
    - during 3, the answer lost: settled or redelivered, and then acknowledged by whoever gets it. A message
      that was to be given up and lost its lease meanwhile is acknowledged as well: its outcome stands, only
      the dead letter is missing.

    To hand a delivery back, step 1 gives its claim up and step 3 returns it. Dying between them, the message
    comes again when its lease ends.

    To send a workflow (`delivery` None), its joins are opened first, then its messages are sent. Dying
    between them, nothing was sent: the caller was not told that it was accepted, and the joins expire.
    Arrivals without a delivery are closed like a run, under a claim made up from their own ids.
    """

    def __init__(
        self,
        transport: Transport,
        store: ResultStore,
        holder: str,
        lease: float,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._transport = transport
        self._store = store
        self._holder = holder
        self._lease = lease
        self._clock = clock
        #: What was admitted here, with the wall time at which its claim ends: a redelivery to ourselves,
        #: while the first one still runs, is parked like that of a stranger (P2).
        self._running: dict[tuple[str, int], float] = {}

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        if not deliveries:
            return Admission(())
        now = self._clock.time()
        run: list[Delivery] = []
        again: list[Envelope] = []
        settlements: list[tuple[Delivery, Settlement]] = []
        fresh: dict[tuple[str, int], Delivery] = {}
        for delivery in deliveries:
            key = delivery.message.key
            ends = now + self._lease if key in fresh else self._running.get(key, now)
            if ends > now:
                settlements.append((delivery, self._park(ends)))
            else:
                fresh[key] = delivery
        claims = await self._store.claim(list(fresh), self._holder, self._lease)
        for delivery, claim in zip(fresh.values(), claims, strict=True):
            match claim:
                case Claimed():
                    run.append(delivery)
                case AlreadyDone(envelopes):
                    again.extend(envelopes)
                    settlements.append((delivery, ACK))
                case HeldElsewhere(until):
                    settlements.append((delivery, self._park(until)))
        if again:
            await self._transport.send(again)
        if settlements:
            await self._transport.settle(settlements)
        revoked = await self._store.revoked([delivery.message.id for delivery in run]) if run else ()
        self._running.update((delivery.message.key, now + self._lease) for delivery in run)
        if not revoked:
            return Admission(run)
        return Admission(
            [delivery for delivery in run if delivery.message.id not in revoked],
            [delivery for delivery in run if delivery.message.id in revoked],
        )

    def _park(self, until: float) -> HandBack:
        return HandBack(max(until - self._clock.time(), _SHORTEST_PARKING))

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        if not held:
            return self.consumer.renew(held) if self.consumer is not None else ()
        ends = self._clock.time() + self._lease
        lost_claims = set(
            self._store.renew_claims([delivery.message.key for delivery in held], self._holder, self._lease)
        )
        lost_leases: set[Delivery] = set()
        if self.consumer is not None:
            lost_leases.update(self.consumer.renew(held))
        lost: list[Delivery] = []
        for delivery in held:
            key = delivery.message.key
            if delivery in lost_leases or key in lost_claims:
                lost.append(delivery)
                self._running.pop(key, None)
            elif key in self._running:
                self._running[key] = ends
        return lost

    async def commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        kept = await self._close(group)
        following: list[Envelope] = []
        settlements: list[tuple[Delivery, Settlement]] = []
        for finish, envelopes in zip(group, kept, strict=True):
            if envelopes is not None:
                following.extend(envelopes)
            # Handing back is for the broker to allow: when the claim is gone already, this may be a repeat.
            if finish.delivery is not None and (envelopes is not None or _hands_back(finish)):
                settlements.append((finish.delivery, finish.settlement))
        if following:
            await self._transport.send(following)
        settled: set[Delivery] = set()
        if settlements:
            answers = await self._transport.settle(settlements)
            settled.update(delivery for (delivery, _), answer in zip(settlements, answers, strict=True) if answer)
        for finish in group:
            if finish.delivery is not None:
                self._running.pop(finish.delivery.message.key, None)
        return [
            COMMITTED if (finish.delivery in settled if _hands_back(finish) else envelopes is not None) else LEASE_LOST
            for finish, envelopes in zip(group, kept, strict=True)
        ]

    async def _close(self, group: Sequence[Finish]) -> list[tuple[Envelope, ...] | None]:
        """Write the store's half of `group`; return what each has to send, None where the claim was lost."""
        kept: list[tuple[Envelope, ...] | None] = [finish.envelopes for finish in group]
        closings = {
            index: _closing(finish)
            for index, finish in enumerate(group)
            if finish.delivery is not None or finish.arrivals
        }
        await self._write_undelivered([finish for finish in group if finish.delivery is None])
        made_up = [closing.key for index, closing in closings.items() if group[index].delivery is None]
        if made_up:
            claims = await self._store.claim(made_up, self._holder, self._lease)
            done = {
                key: claim.envelopes
                for key, claim in zip(made_up, claims, strict=True)
                if isinstance(claim, AlreadyDone)
            }
            for index in [index for index, closing in closings.items() if closing.key in done]:
                kept[index] = done[closings.pop(index).key]
        if closings:
            answers = await self._store.close(list(closings.values()), self._holder)
            for index, envelopes in zip(closings, answers, strict=True):
                kept[index] = envelopes
        return kept

    async def _write_undelivered(self, group: Sequence[Finish]) -> None:
        """Write the joins and records which come with no delivery, and so under no claim."""
        joins = [join for finish in group for join in finish.joins]
        if joins:
            await self._store.open_joins(joins)
        records = [finish.record for finish in group if finish.record is not None]
        if records:
            await self._store.put(records)


def _hands_back(finish: Finish) -> bool:
    return isinstance(finish.settlement, HandBack)


def _closing(finish: Finish) -> Closing:
    if finish.delivery is None:
        first = finish.arrivals[0]
        return Closing((f"arrival:{first.join_id}:{first.index}", 0), None, finish.envelopes, finish.arrivals)
    return Closing(
        finish.delivery.message.key,
        finish.record,
        finish.envelopes,
        finish.arrivals,
        finish.joins,
        is_done=not _hands_back(finish),
    )
