"""Ways to break the code on purpose: the simulation must find each.

A break replaces something of aiotq by what a mistake would have made of it, in a process that does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.backends.memory.queues import MemoryQueues
from aiotq.backends.numbered import NumberedWrites
from aiotq.commit import Committer, Finish, ordered
from aiotq.commit.committer import LEASE_LOST, Admission
from aiotq.commit.ordered import OrderedCommitter
from aiotq.exceptions import ConnectionLost, Refused
from aiotq.results import decisions, in_process_joins, ledger_table
from aiotq.results.ledger import AlreadyDone, Claimed, HeldElsewhere
from aiotq.results.permits import Permits
from aiotq.transport.broker import ACK, Delivery, HandBack
from aiotq.worker import completer
from aiotq.worker.lifeline import Lifeline
from aiotq.worker.upkeep import Reclaiming


class Break(NamedTuple):
    """What breaks something, and the seed from which on it is looked for."""

    apply: Callable[[], None]
    first: int
    model: str | None = None  #: the kind of servers on which it shows itself


def _set(where: Any, name: str, what: object) -> None:
    setattr(where, name, what)


def acknowledge_before_the_commit() -> None:
    """A death between the two loses the call."""
    commit = OrderedCommitter._commit_runs

    async def settled_first(self: Any, group: Sequence[Finish]) -> Any:
        await self._broker.settle([(each.delivery, each.settlement) for each in group if each.delivery is not None])
        return await commit(self, group)

    _set(OrderedCommitter, "_commit_runs", settled_first)


def take_a_claim_that_another_has() -> None:
    """Two workers run one message."""
    decide = decisions.decide_claim

    def decided(*args: Any) -> Any:
        answer, died = decide(*args)
        return (Claimed(0) if isinstance(answer, HeldElsewhere) else answer), died

    _set(ledger_table, "decide_claim", decided)


def forget_what_is_done() -> None:
    """A message whose acknowledgement was lost runs again."""
    decide = decisions.decide_claim

    def decided(*args: Any) -> Any:
        answer, died = decide(*args)
        return (Claimed(0) if isinstance(answer, AlreadyDone) else answer), died

    _set(ledger_table, "decide_claim", decided)


def forget_what_follows_from_what_is_done() -> None:
    """Whoever gets a message again whose worker died between ledger and broker sends nothing."""
    decide = decisions.decide_claim

    def decided(*args: Any) -> Any:
        answer, died = decide(*args)
        return (AlreadyDone(()) if isinstance(answer, AlreadyDone) else answer), died

    _set(ledger_table, "decide_claim", decided)


def renew_nothing() -> None:
    """A long run loses its lease."""
    _set(Lifeline, "_renew_all", lambda self: None)


def leave_strays() -> None:
    """What a dead worker held stays where it is."""

    async def nothing(self: Any, *args: Any) -> None:
        return None

    _set(Reclaiming, "run", nothing)


def forget_the_move_of_a_stray() -> None:
    """What was given to another one can still be settled by its holder of before."""
    reclaim, settle = MemoryQueues.reclaim, MemoryQueues.settle
    moved: dict[int | str, Any] = {}

    def reclaimed(self: Any, dead: Collection[str] = ()) -> int:
        before = dict(self._held)
        count = reclaim(self, dead)
        moved.update((lease, entry) for lease, entry in before.items() if lease not in self._held)
        return count

    def settled(self: Any, delivery: Delivery, settlement: Any) -> bool:
        entry = moved.pop(delivery.lease, None)
        if entry is not None and self._held.pop(entry.lease, None) is not None:
            self._held[delivery.lease] = entry
        return settle(self, delivery, settlement)

    _set(MemoryQueues, "reclaim", reclaimed)
    _set(MemoryQueues, "settle", settled)


def commit_without_the_lease() -> None:
    """A worker that lost its lease writes all the same."""
    write = MemoryCommitter._write

    def written(self: Any, finish: Finish) -> Any:
        answer = write(self, finish)
        return write(self, replace(finish, delivery=None)) if answer is LEASE_LOST else answer

    _set(MemoryCommitter, "_write", written)


def accept_what_was_not_answered() -> None:
    """A caller is told that a message was accepted, though nobody knows that."""
    write = NumberedWrites.write

    async def written(self: Any, items: Any, send: Any) -> Any:
        try:
            return await write(self, items, send)
        except ConnectionLost:
            return [1] * len(items)

    _set(NumberedWrites, "write", written)


def write_again_without_asking() -> None:
    """What was written, and its reply lost, is written a second time."""

    async def unknown(self: Any) -> dict[Any, int]:
        self._unsure = None
        return {}

    _set(NumberedWrites, "_settle", unknown)


def end_a_join_twice() -> None:
    """The second failure of a group's members sends its error callbacks again."""
    waiting = in_process_joins.InProcessJoins._waiting

    def still_waiting(self: Any, join_id: str) -> Any:
        return waiting(self, join_id) or self.kept.get(join_id)

    def end(self: Any, now: float) -> Any:
        return self.then

    _set(in_process_joins.InProcessJoins, "_waiting", still_waiting)
    _set(in_process_joins._Join, "end", end)


def refuse_the_whole_group() -> None:
    """What stands beside a refused finish is refused as well."""

    async def together(items: Sequence[Any], attempt: Any) -> list[Any]:
        try:
            return list(await attempt(items)) if items else []
        except Refused as exc:
            return [exc] * len(items)

    _set(completer, "apart", together)


def acknowledge_what_is_handed_back() -> None:
    """What a worker can't run now is gone."""
    settle = MemoryQueues.settle

    def settled(self: Any, delivery: Delivery, settlement: Any) -> bool:
        return settle(self, delivery, ACK if isinstance(settlement, HandBack) else settlement)

    _set(MemoryQueues, "settle", settled)


def measure_leases_by_the_wall() -> None:
    """A clock that is set anew ends the claims of its worker."""
    make = OrderedCommitter.__init__

    def made(self: Any, *args: Any, **more: Any) -> None:
        make(self, *args, **more)
        clock = self._clock

        class Wall:
            time = monotonic = staticmethod(clock.time)

        self._clock = Wall()

    _set(OrderedCommitter, "__init__", made)


def give_permits_to_all() -> None:
    """`max_concurrency` limits nothing."""
    _set(Permits, "acquire", lambda *args: 0)


def admit_the_revoked() -> None:
    """A revoked call runs."""

    async def all_of_them(ledger: Any, deliveries: Sequence[Delivery]) -> Admission:
        return Admission(deliveries)

    _set(ordered, "admitted", all_of_them)


def lose_what_follows() -> None:
    """The next step of a workflow is not sent."""
    commit = Committer.commit

    async def committed(self: Any, group: Sequence[Finish]) -> Any:
        cut = [replace(each, envelopes=()) if each.delivery is not None else each for each in group]
        return await commit(self, cut)

    _set(Committer, "commit", committed)


#: By name; where they were found, the search begins.
BREAKS: Final = {
    each.apply.__name__: each
    for each in (
        Break(acknowledge_before_the_commit, 25),
        Break(take_a_claim_that_another_has, 58),
        Break(forget_what_is_done, 3),
        Break(forget_what_follows_from_what_is_done, 373),
        Break(renew_nothing, 11),
        Break(leave_strays, 10),
        Break(forget_the_move_of_a_stray, 349, "one"),
        Break(commit_without_the_lease, 442),
        Break(accept_what_was_not_answered, 227),
        Break(write_again_without_asking, 335, "one"),
        Break(end_a_join_twice, 0),
        Break(refuse_the_whole_group, 208),
        Break(acknowledge_what_is_handed_back, 3),
        Break(measure_leases_by_the_wall, 734, "plain"),
        Break(give_permits_to_all, 3),
        Break(admit_the_revoked, 3),
        Break(lose_what_follows, 1),
    )
}
