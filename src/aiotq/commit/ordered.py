"""The commit of any broker with any ledger and records: idempotent steps, none of which can be lost (P3)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.values import sendable
from ..exceptions import ConnectionLost, OperationalError, Refused
from ..results.fleet import FleetRow
from ..results.ledger import (
    AlreadyDone,
    Caution,
    Claimed,
    Closing,
    HeldElsewhere,
    JoinChanges,
    Ledger,
    ScheduleChange,
    Suspected,
    kept_record,
)
from ..results.records import Record, RecordStore
from ..transport.broker import (
    ACK,
    MAX_DETAIL,
    SUSPECT_DEATHS,
    Broker,
    Delivery,
    GiveUp,
    HandBack,
    Settlement,
)
from ..transport.refusals import apart, send_apart
from ..wire.message import Envelope
from .committer import COMMITTED, LEASE_LOST, Admission, Answer, Committer, Finish, admitted
from .other_holders import OtherHolders
from .undelivered import is_plain, made_up_key

logger = logging.getLogger("aiotq.commit")

#: A delivery whose claim is about to end is parked at least this long: the claim may end a moment later by
#: another clock.
_SHORTEST_PARKING: Final = 0.05
#: Seconds after which a delivery comes again whose message is being committed here.
_COMMIT_PARKING: Final = 0.25
#: Seconds after which a suspect for which there is no room here comes again, here or elsewhere.
_SUSPECT_PARKING: Final = 1.0
#: Seconds after which a delivery comes again whose dead letter is refused.
_REFUSED_PARKING: Final = 60.0


class _Hold:
    """Which delivery here, by its lease, has our claim of a message, or is asking for it."""

    __slots__ = ("ends", "lease")

    def __init__(self, lease: int | str) -> None:
        self.lease = lease
        self.ends = 0.0  #: monotonic time at which the claim ends unless renewed; 0 before it was admitted


class OrderedCommitter(Committer):
    """Writes finishes to a broker, a ledger and records that can't share a transaction.

    Before a delivery runs, `holder` claims its message in the ledger for `lease` seconds, and that claim,
    renewed with the lease, is the right to run it. Whoever dies leaves the delivery unsettled, so it comes
    again when the lease ends, to whoever then finds the claim as it was left. A finish is written in three
    steps:

    1. the ledger closes the claim: outcomes, what is done at joins and all that is to be sent now are kept
       in one step;
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

    What the broker refuses for good in step 2 is answered so, and its delivery is not settled: the outcome stands, and
    what is committed in its place for the delivery is closed under a claim made up for that. Whoever gets the message
    again, after a death here, makes it a dead letter.

    To hand a delivery back, step 1 gives its claim up and step 3 returns it. Dying between them, the message
    comes again when its lease ends.

    Where the records are not kept beside the ledger, step 1 renews the claim, puts the records, and closes the claim.
    Dying between them, the outcome stands, and the message runs again when its claim has ended.

    A ledger knows claims by their holders, and a message may come to one holder several times: as a duplicate, or after
    it was handed back. So it is known here which delivery has the claim, and no other may renew it, give it up or
    finish under it, not even by repeating what it was not told is done (P2).

    To send a workflow (`delivery` None), its joins are opened first, then its messages are sent. Dying
    between them, nothing was sent: the caller was not told that it was accepted, and the joins become
    overdue. What else is done at joins without a delivery is closed like a run, under a claim made up from
    its first arrival or the id of its record.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        records: RecordStore,
        holder: str,
        lease: float,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._records = records
        self._are_one = ledger.records is records
        self._holder = holder
        self._lease = lease
        self._clock = clock
        #: A redelivery to ourselves, while another one still runs, is parked like that of a stranger.
        self._holds: dict[tuple[str, int], _Hold] = {}
        #: What is being committed: until it is done, the ledger may be asked once more to give the claim up.
        self._committing: set[tuple[str, int]] = set()
        #: What admissions give back, by leases, until that is answered: it may be elsewhere by then, and not be ours to
        #: claim when the admission is repeated.
        self._given_back: dict[int | str, tuple[Delivery, HandBack]] = {}
        #: Messages whose finish was closed and then refused by the broker, and how often: their claims are done.
        self._refused: dict[tuple[str, int], int] = {}
        #: Leases of the suspects, where claims count deaths; there is one at most (P5).
        self._suspects: set[int | str] = set()
        #: What the heartbeat's thread found lost; holds change in the loop alone.
        self._lost: deque[Delivery] = deque()
        self._others = OtherHolders()

    def know_dead(self, holder: str) -> None:
        self._others.dead.append(holder)

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        if not deliveries:
            return Admission(())
        while self._lost:
            self._let_go_of(self._lost.popleft())
        now, wall = self._clock.monotonic(), self._clock.time()
        run: list[Delivery] = []
        again: dict[Delivery, Sequence[Envelope]] = {}
        fresh, settlements = self._sorted_out(deliveries, now)
        claims = await self._ledger.claim(list(fresh), self._holder, self._lease, self._caution(), self._others.dead)
        for delivery, claim in zip(fresh.values(), claims, strict=True):
            match claim:
                case Claimed(deaths):
                    run.append(self._counted(delivery, deaths))
                    continue
                case Suspected(deaths):
                    settlements.append(self._give_back(self._counted(delivery, deaths), _SUSPECT_PARKING))
                case AlreadyDone(envelopes):
                    again[delivery] = envelopes
                    settlements.append((delivery, ACK))
                case HeldElsewhere(until):
                    # No longer than a claim lasts: our clock may have jumped, and not the ledger's.
                    left = min(self._others.until(delivery.message.key, wall, until) - wall, self._lease)
                    settlements.append(self._park(delivery, left))
            del self._holds[delivery.message.key]
        if settlements:
            await self._settle_unclaimed(settlements, again)
            for delivery, _ in settlements:
                self._given_back.pop(delivery.lease, None)
        admission = await admitted(self._ledger, run)
        for delivery in run:
            self._holds[delivery.message.key].ends = now + self._lease
        if not self._broker.counts_deaths:
            self._suspects.update(delivery.lease for delivery in run if delivery.is_suspect)
        return admission

    async def _settle_unclaimed(
        self, settlements: Sequence[tuple[Delivery, Settlement]], again: Mapping[Delivery, Sequence[Envelope]]
    ) -> None:
        """Settle what is not to run; what was kept to be sent with its claim is sent `again` before.

        What is refused by now makes a dead letter of its delivery: replayed, it is sent once more.
        """
        refused = await self._send([envelope for envelopes in again.values() for envelope in envelopes])
        why = {delivery: error for delivery, envelopes in again.items() if (error := _first(envelopes, refused))}
        for delivery, error in why.items():
            message = delivery.message
            logger.error("what follows from task %s[%s] is refused: %s", message.task, message.id, error)
        decided = [
            (delivery, GiveUp("refused", sendable(str(why[delivery]), MAX_DETAIL)) if delivery in why else settlement)
            for delivery, settlement in settlements
        ]
        answers = await apart(decided, self._broker.settle)
        unsettled = [
            delivery for (delivery, _), each in zip(decided, answers, strict=True) if isinstance(each, Refused)
        ]
        if unsettled:
            await self._broker.settle([(delivery, HandBack(_REFUSED_PARKING)) for delivery in unsettled])

    async def _send(self, envelopes: Sequence[Envelope]) -> dict[tuple[str, int], Refused]:
        """Send what of `envelopes` is not refused; return why the others are, by the keys of their messages."""
        return await send_apart(self._broker.send, envelopes)

    def _sorted_out(
        self, deliveries: Sequence[Delivery], now: float
    ) -> tuple[dict[tuple[str, int], Delivery], list[tuple[Delivery, Settlement]]]:
        """Return those to be claimed by their keys, and how to settle those that run here already."""
        fresh: dict[tuple[str, int], Delivery] = {}
        settlements: list[tuple[Delivery, Settlement]] = []
        for delivery in deliveries:
            key = delivery.message.key
            hold = self._holds.get(key)
            ends = now + self._lease if key in fresh else hold.ends if hold is not None else now
            if key in self._committing and key not in fresh:  # handed back, it may be here before that is written
                ends = now + _COMMIT_PARKING
            if delivery.lease in self._given_back:
                settlements.append(self._given_back[delivery.lease])
            elif ends > now:
                settlements.append(self._park(delivery, ends - now))
            else:
                fresh[key] = delivery
                self._holds[key] = _Hold(delivery.lease)
        return fresh, settlements

    def _caution(self) -> Caution | None:
        """Where the broker can't tell who died with what, the claims do, and let one suspect start at a time."""
        if self._broker.counts_deaths:
            return None
        return Caution(SUSPECT_DEATHS, 0 if self._suspects else 1)

    def _counted(self, delivery: Delivery, deaths: int) -> Delivery:
        """Return `delivery` with what its claim knows. Each death of a suspect was its own: it ran as the only one."""
        if self._broker.counts_deaths or deaths == delivery.deaths:
            return delivery
        return replace(delivery, deaths=deaths, charges=max(0, deaths - SUSPECT_DEATHS))

    def _park(self, delivery: Delivery, seconds: float) -> tuple[Delivery, HandBack]:
        return self._give_back(delivery, max(seconds, _SHORTEST_PARKING))

    def _give_back(self, delivery: Delivery, delay: float) -> tuple[Delivery, HandBack]:
        given_back = self._given_back[delivery.lease] = delivery, HandBack(delay)
        return given_back

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        if not held:
            return super().renew(held, row)
        ends = self._clock.monotonic() + self._lease
        own: list[tuple[Delivery, _Hold | None]] = []
        lost: list[Delivery] = []
        asking: list[Delivery] = []
        for delivery in held:
            hold = self._holds.get(delivery.message.key)
            if hold is not None and hold.lease != delivery.lease:
                lost.append(delivery)
            elif hold is not None and not hold.ends:
                asking.append(delivery)  # the ledger may not know of it yet
            else:
                own.append((delivery, hold))
        lost_claims = self._renew_claims([delivery.message.key for delivery, _ in own], row)
        lost_leases: set[Delivery] = set()
        if self.consumer is not None:
            lost_leases.update(self.consumer.renew(held))
        for delivery, hold in own:
            if delivery in lost_leases or delivery.message.key in lost_claims:
                lost.append(delivery)
            elif hold is not None:
                hold.ends = ends
        self._lost.extend(lost)
        return lost + [delivery for delivery in asking if delivery in lost_leases]

    def _renew_claims(self, keys: Sequence[tuple[str, int]], row: FleetRow | None) -> set[tuple[str, int]]:
        """Renew claims, and write `row` in the same request unless that is what the ledger refuses; return the lost."""
        try:
            return set(self._ledger.renew_claims(keys, self._holder, self._lease, row))
        except ConnectionLost:
            raise
        except OperationalError:
            if row is None:
                raise
        lost = set(self._ledger.renew_claims(keys, self._holder, self._lease))
        self._write_row(row)
        return lost

    def _renew_row(self, row: FleetRow) -> None:
        self._ledger.renew_presence(row.key, row.row, row.lease)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Answer]:
        scheduled = [finish for finish in group if finish.schedule is not None]
        if not scheduled:
            return await self._commit_runs(group)
        runs = [finish for finish in group if finish.schedule is None]
        of_runs = iter(await self._commit_runs(runs) if runs else ())
        of_scheduled = iter(await self._commit_scheduled(scheduled))
        return [next(of_runs if finish.schedule is None else of_scheduled) for finish in group]

    async def _commit_scheduled(self, group: Sequence[Finish]) -> list[Answer]:
        """Send occurrences: accepted in the ledger with their messages, sent, and confirmed there.

        Whoever finds messages that were not confirmed commits them again. What is sent twice so has one id, and its
        claim lets one of the two run.
        """
        plain: list[Finish] = []
        accepting: list[ScheduleChange] = []
        for finish in group:
            if finish.schedule is not None:
                accepting.append(replace(finish.schedule, unsent=finish.envelopes))
                plain.append(replace(finish, schedule=None, envelopes=()))
        answers = await self._ledger.change_schedules(accepting)
        accepted = [index for index, answer in enumerate(answers) if answer]
        await self._write_plain([plain[index] for index in accepted])
        if following := [envelope for index in accepted for envelope in accepting[index].unsent]:
            await self._broker.send(following)
            confirming = [accepting[index] for index in accepted if accepting[index].unsent and accepting[index].mark]
            await self._ledger.change_schedules(
                [replace(change, seen=change.mark, unsent=(), tells=False) for change in confirming]
            )
        return [COMMITTED if answer else LEASE_LOST for answer in answers]

    async def _commit_runs(self, group: Sequence[Finish]) -> Sequence[Answer]:
        held = [finish.delivery for finish in group if finish.delivery is not None]
        closing = {each.lease: each.message.key for each in held if not self._is_anothers(each)}
        self._committing.update(closing.values())
        kept = await self._close(group, closing)
        refused = await self._send([envelope for envelopes in kept if envelopes for envelope in envelopes])
        refusals = [_first(envelopes or (), refused) for envelopes in kept]
        settlements: list[tuple[Delivery, Settlement]] = []
        for finish, envelopes, refusal in zip(group, kept, refusals, strict=True):
            if refusal is not None:
                if finish.delivery is not None:  # its claim is done: what comes in its place has one of its own
                    key = finish.delivery.message.key
                    self._refused[key] = self._refused.get(key, 0) + 1
                continue
            # Handing back is for the broker to allow: when the claim is gone already, this may be a repeat.
            if finish.delivery is not None and (envelopes is not None or _hands_back(finish)):
                settlements.append((finish.delivery, finish.settlement))
            elif finish.delivery is not None and not self._broker.counts_deaths:
                # Such a broker would keep it for us as long as we are connected: whoever is next asks for its claim.
                settlements.append((finish.delivery, HandBack(_SHORTEST_PARKING)))
        settled: set[Delivery] = set()
        if settlements:
            answers = await self._broker.settle(settlements)
            settled.update(delivery for (delivery, _), answer in zip(settlements, answers, strict=True) if answer)
        self._committing.difference_update(closing.values())
        for finish, refusal in zip(group, refusals, strict=True):
            if finish.delivery is not None and refusal is None:
                self._let_go_of(finish.delivery)
                self._given_back.pop(finish.delivery.lease, None)
                self._refused.pop(finish.delivery.message.key, None)
        return [
            refusal
            or (
                COMMITTED
                if (finish.delivery in settled if _hands_back(finish) else envelopes is not None)
                else LEASE_LOST
            )
            for finish, envelopes, refusal in zip(group, kept, refusals, strict=True)
        ]

    def _is_anothers(self, delivery: Delivery) -> bool:
        """Whether the claim of its message is another delivery's here."""
        hold = self._holds.get(delivery.message.key)
        return hold is not None and hold.lease != delivery.lease

    def _let_go_of(self, delivery: Delivery) -> None:
        if not self._is_anothers(delivery):
            self._holds.pop(delivery.message.key, None)
        self._suspects.discard(delivery.lease)

    async def _close(
        self, group: Sequence[Finish], closing: Collection[int | str]
    ) -> list[tuple[Envelope, ...] | None]:
        """Write what is not the broker's of `group`; return what each has to send, None where the claim was lost.

        Deliveries whose leases are not in `closing` have lost theirs to another one here.
        """
        kept: dict[int, tuple[Envelope, ...] | None] = {index: finish.envelopes for index, finish in enumerate(group)}
        closings: dict[int, Closing] = {}
        made_up: list[tuple[str, int]] = []
        plain: list[Finish] = []
        for index, finish in enumerate(group):
            if finish.delivery is not None and finish.delivery.lease not in closing:
                kept[index] = None
            elif finish.delivery is not None:
                task_id, attempt = key = finish.delivery.message.key
                if key in self._refused:
                    made_up.append((f"instead:{self._refused[key]}:{task_id}", attempt))
                    key = made_up[-1]
                closings[index] = _closing(finish, key)
            elif is_plain(finish):
                plain.append(finish)
            else:
                made_up.append(made_up_key(finish))
                closings[index] = _closing(finish, made_up[-1])
        await self._write_plain(plain)
        if self._are_one:
            kept.update(await self._done_before(closings, made_up))
        elif closings:
            kept.update(await self._lost_or_done(closings))
            closings = await self._put_apart(closings)
        if closings:
            written = await self._ledger.close(list(closings.values()), self._holder)
            kept.update(zip(closings, written, strict=True))
        return [kept[index] for index in range(len(group))]

    async def _done_before(
        self, closings: dict[int, Closing], made_up: Sequence[tuple[str, int]]
    ) -> dict[int, tuple[Envelope, ...]]:
        """Claim the `made_up` keys; take those that are done already out of `closings`, and return what they send."""
        if not made_up:
            return {}
        claims = dict(zip(made_up, await self._ledger.claim(made_up, self._holder, self._lease), strict=True))
        done: dict[int, tuple[Envelope, ...]] = {}
        for index, closing in list(closings.items()):
            if isinstance(claim := claims.get(closing.key), AlreadyDone):
                done[index] = claim.envelopes
                del closings[index]
        return done

    async def _lost_or_done(self, closings: dict[int, Closing]) -> dict[int, tuple[Envelope, ...] | None]:
        """Have all claims again, for a whole lease; take out of `closings` what is another's (None) or done already."""
        keys = [closing.key for closing in closings.values()]
        claims = await self._ledger.claim(keys, self._holder, self._lease)
        others: dict[int, tuple[Envelope, ...] | None] = {}
        for index, claim in zip(list(closings), claims, strict=True):
            if not isinstance(claim, Claimed):
                others[index] = claim.envelopes if isinstance(claim, AlreadyDone) else None
                del closings[index]
        return others

    async def _put_apart(self, closings: Mapping[int, Closing]) -> dict[int, Closing]:
        """Put the records of `closings`, and return what of them is the ledger's: joins keep records of their own."""
        records = [
            record for each in closings.values() for record in (each.record, *each.further) if record is not None
        ]
        if records:
            await self._records.put(records)
        return {
            index: replace(each, record=None, further=(), joining=_with_records(each.joining, each.record))
            for index, each in closings.items()
        }

    async def _write_plain(self, group: Sequence[Finish]) -> None:
        """Write new joins and records, which need no claim since they may be written twice."""
        joins = [join for finish in group for join in finish.joining.opened]
        if joins:
            await self._ledger.open_joins(joins)
        records: list[Record] = []
        for finish in group:
            if finish.record is not None:
                records.append(finish.record)
            records += finish.further
        if records:
            await self._records.put(records)


def _first(envelopes: Sequence[Envelope], refused: Mapping[tuple[str, int], Refused]) -> Refused | None:
    """Return why the first of `envelopes` that is refused is so; None if none is."""
    if not refused:
        return None
    return next((error for each in envelopes if (error := refused.get(each.message.key)) is not None), None)


def _hands_back(finish: Finish) -> bool:
    return isinstance(finish.settlement, HandBack)


def _closing(finish: Finish, key: tuple[str, int]) -> Closing:
    return Closing(
        key, finish.record, finish.envelopes, finish.joining, finish.further, is_done=not _hands_back(finish)
    )


def _with_records(joining: JoinChanges, record: Record | None) -> JoinChanges:
    """Return `joining` with the records in its arrivals that would come with their finish."""
    if not joining.arrivals:
        return joining
    arrivals = tuple(replace(each, record=kept_record(each, record)) for each in joining.arrivals)
    return replace(joining, arrivals=arrivals)
