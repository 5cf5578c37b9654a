"""One claim, and several deliveries of its message to one worker: which of them has it (P2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from aiotq.commit import COMMITTED, LEASE_LOST, Finish
from aiotq.core.clock import Clock
from aiotq.exceptions import ConnectionLost, OperationalError
from aiotq.results import HeldElsewhere, Ledger
from aiotq.results.fleet import FleetRow
from aiotq.states import SUCCESS
from aiotq.testing.contracts.broker_harness import envelope, ids
from aiotq.testing.contracts.harness import JumpingClock
from aiotq.transport import Delivery, HandBack

from .commit_contract import Faults, record, standing, state_of
from .harness import CommitHarness, MemoryKeptHarness, MemoryTransportHarness, Worker


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[CommitHarness]:
    clock = JumpingClock()
    async with CommitHarness(MemoryTransportHarness(tmp_path, clock), MemoryKeptHarness(clock)) as pair:
        yield pair


async def taken(worker: Worker) -> Delivery:
    """Send "a", and return the delivery of it that `worker` may run."""
    await worker.transport.send([envelope("a")])
    (delivery,) = await worker.admitted()
    return delivery


def duplicate(delivery: Delivery) -> Delivery:
    """What a broker delivers that does not know that this message is there already."""
    return replace(delivery, lease=f"again-{delivery.lease}")


async def is_held_by(worker: Worker, delivery: Delivery) -> bool:
    """Whether a stranger who asks for the claim does not get it."""
    (answer,) = await worker.ledger.claim([delivery.message.key], "stranger", 1.0)
    return isinstance(answer, HeldElsewhere)


async def renewed(worker: Worker, *held: Delivery) -> Sequence[Delivery]:
    """Renew as the heartbeat's thread does; return what is lost."""
    return list(await asyncio.to_thread(worker.committer.renew, held))


async def test_a_hand_back_that_is_repeated_leaves_the_claim_to_the_next_delivery(pair: CommitHarness) -> None:
    """Its answer was lost on the way to who asked for it, and the message was back before that asked again."""
    worker = await pair.worker()
    first = await taken(worker)
    assert await worker.committer.commit([Finish(first, HandBack())]) == [COMMITTED]
    (second,) = await worker.admitted()

    assert await worker.committer.commit([Finish(first, HandBack())]) == [LEASE_LOST]

    assert await is_held_by(worker, second)
    assert not (await worker.committer.admit([duplicate(second)])).run
    assert await renewed(worker, second) == []
    assert await worker.committer.commit([Finish(second, record=record(pair, "a"))]) == [COMMITTED]
    assert await state_of(worker, "a") == SUCCESS


async def test_a_duplicate_that_is_handed_back_leaves_the_claim_to_the_one_that_runs(pair: CommitHarness) -> None:
    """A worker that stops hands back what it has read, admitted or not."""
    worker = await pair.worker()
    running = await taken(worker)

    await worker.committer.commit([Finish(duplicate(running), HandBack())])

    assert await is_held_by(worker, running)
    assert not (await worker.committer.admit([duplicate(running)])).run
    assert await renewed(worker, running) == []
    assert await worker.committer.commit([Finish(running, record=record(pair, "a"))]) == [COMMITTED]


async def test_a_renewal_that_comes_late_loses_only_its_own_delivery(pair: CommitHarness) -> None:
    """It was asked for before the hand-back, and says so of a message that runs here again."""
    worker = await pair.worker()
    first = await taken(worker)
    await worker.committer.commit([Finish(first, HandBack())])
    (second,) = await worker.admitted()

    assert await renewed(worker, first) == [first]

    assert not (await worker.committer.admit([duplicate(second)])).run
    assert await renewed(worker, second) == []


async def test_what_is_being_admitted_is_not_lost_to_a_renewal(pair: CommitHarness) -> None:
    """Its claim is on its way: "not yours" would cancel the run that it allows."""
    asked, answered = asyncio.Event(), asyncio.Event()

    class Slow:
        def __init__(self, ledger: Ledger) -> None:
            self._ledger = ledger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

        async def claim(self, *args: Any) -> Any:
            asked.set()
            await answered.wait()
            return await self._ledger.claim(*args)

    worker = await pair.worker(
        wrap=lambda transport, kept: (transport, replace(kept, ledger=cast(Ledger, Slow(kept.ledger))))
    )
    await worker.transport.send([envelope("a")])
    received = await worker.consumer.receive(1, suspect=True, wait=0)

    async with asyncio.TaskGroup() as group:
        admitting = group.create_task(worker.committer.admit(received))
        await asked.wait()
        assert await renewed(worker, *received) == []
        answered.set()

    assert ids(admitting.result().run) == ["a"]


async def test_what_an_admission_gave_back_is_not_claimed_when_it_is_repeated(pair: CommitHarness) -> None:
    """The answer was lost, and the message is somebody else's by now."""
    faults = Faults()
    worker, other = await pair.worker(wrap=faults.wrap), await pair.worker("other")
    await other.ledger.claim([("a", 0)], "other", pair.broker.lease)
    await worker.transport.send([envelope("a")])
    received = await worker.consumer.receive(1, suspect=True, wait=0)
    faults.arm("settle", "after")
    with pytest.raises(ConnectionLost):
        await worker.committer.admit(received)
    await pair.pass_time(pair.broker.lease * 1.1)

    assert not (await worker.committer.admit(received)).run

    assert ids(await other.admitted()) == ["a"]


async def test_whose_claim_ended_and_went_to_a_later_delivery_is_told_and_can_not_commit(pair: CommitHarness) -> None:
    """The process was suspended, and its broker has delivered to it again what it runs."""
    worker = await pair.worker()
    late = await taken(worker)
    await pair.broker.reclaimed(worker.consumer, 1)
    (again,) = await worker.admitted()

    assert await renewed(worker, late, again) == [late]
    lost = Finish(late, record=record(pair, "a"), envelopes=(envelope("after late"),))
    assert await worker.committer.commit([lost]) == [LEASE_LOST]

    assert await state_of(worker, "a") is None
    assert (await standing(worker))["ready"] == 0
    assert await worker.committer.commit([Finish(again, record=record(pair, "a"))]) == [COMMITTED]


async def test_claims_are_renewed_though_the_ledger_refuses_the_row_beside_them(
    pair: CommitHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has put something else in the row's place."""
    worker = await pair.worker()
    delivery = await taken(worker)
    renew_claims = worker.ledger.renew_claims

    def refusing(*claims: Any) -> Collection[tuple[str, int]]:
        if isinstance(claims[-1], FleetRow):
            raise OperationalError("no rows today")
        return renew_claims(*claims)

    def refused(*row: object) -> None:
        raise OperationalError("no rows today")

    monkeypatch.setattr(worker.ledger, "renew_claims", refusing)
    monkeypatch.setattr(worker.ledger, "renew_presence", refused)

    for _ in range(8):
        await pair.pass_time(pair.broker.lease / 4)
        assert not await asyncio.to_thread(worker.committer.renew, [delivery], FleetRow("me", b"", 100.0))

    assert await is_held_by(worker, delivery)
    assert "the row in the fleet registry could not be written, trying again: no rows today" in caplog.text


class JumpedClock:
    """The clock of a machine whose wall time was set anew."""

    def __init__(self, clock: Clock, by: float) -> None:
        self._clock, self._by = clock, by
        self.monotonic, self.sleep = clock.monotonic, clock.sleep

    def time(self) -> float:
        return self._clock.time() + self._by


@pytest.mark.parametrize("by", [3600.0, -3600.0])
async def test_a_clock_that_is_set_anew_neither_ends_a_claim_nor_makes_it_longer(
    pair: CommitHarness, by: float
) -> None:
    """Found by the simulation: a worker ran a message a second time that it was running."""
    worker, other = await pair.worker("w"), await pair.worker("other")
    running = await taken(worker)
    for each in (worker, other):
        committer = cast(Any, each.committer)
        committer._clock = JumpedClock(committer._clock, by)
    settle, delays = other.transport.settle, list[float]()

    async def watched(settlements: Sequence[tuple[Delivery, Any]]) -> Sequence[bool]:
        delays.extend(settlement.delay for _, settlement in settlements)
        return await settle(settlements)

    cast(Any, other.transport).settle = watched

    assert not (await worker.committer.admit([duplicate(running)])).run
    for _ in range(2):  # the first time it comes again soon in any case
        assert not (await other.committer.admit([duplicate(running)])).run
    assert delays
    assert max(delays) <= cast(Any, other.committer)._lease
