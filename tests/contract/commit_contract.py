"""The contract of a commit as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, cast

import pytest

from aiotq.backends.postgres.blocking import BlockingClient as PostgresThread
from aiotq.backends.redis.blocking import BlockingClient as RedisThread
from aiotq.backends.sqlite.blocking import BlockingWriter as SQLiteThread
from aiotq.commit import COMMITTED, LEASE_LOST, Answer, Finish
from aiotq.core.values import replace
from aiotq.exceptions import ConnectionLost
from aiotq.results import (
    NO_JOIN_CHANGES,
    Arrival,
    Closing,
    Join,
    JoinChanges,
    JoinExtension,
    JoinGrowth,
    Ledger,
    Record,
    RecordStore,
)
from aiotq.results.fleet import FleetRow
from aiotq.results.index import Finished, FinishedQuery, IndexEntry
from aiotq.states import FAILURE, REVOKED, SUCCESS
from aiotq.testing.contracts.broker_harness import envelope, ids, outcome_cancelled_at
from aiotq.testing.contracts.harness import PATIENCE, Kept
from aiotq.transport import ACK, Broker, Delivery, GiveUp, HandBack

from .harness import CommitHarness, Worker


def record(pair: CommitHarness, task_id: str, state: str = SUCCESS, reply_to: str | None = None) -> Record:
    return Record(task_id, state, b"4", "application/json", pair.now() + 1000, reply_to)


def listed(pair: CommitHarness, task_id: str, state: str = SUCCESS) -> Record:
    """Return a record that has an entry in the index of what finished."""
    return replace(record(pair, task_id, state), entry=IndexEntry(Finished(task_id, state, "proj.add", pair.now())))


def join(size: int, *, join_id: str = "join", then: tuple[str, ...] = ("then",)) -> Join:
    return Join(join_id, size, tuple(map(envelope, then)), 1000.0)


def opening(*joins: Join) -> Finish:
    return Finish(None, joining=JoinChanges(opened=joins))


def arriving(member: str, *, join_id: str = "join", failed: bool = False) -> JoinChanges:
    return JoinChanges(arrivals=(Arrival(join_id, member, failed=failed),))


async def members(worker: Worker, join_id: str = "join") -> list[str] | None:
    """Return the ids of the records that are kept in a join that is over, by their members."""
    (found,) = await worker.ledger.joined([join_id])
    return [found.members[member].id for member in sorted(found.members)] if found is not None else None


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each request of a heartbeat's thread."""
    asked: list[str] = []
    threads: list[tuple[Any, str]] = [(RedisThread, "run"), (PostgresThread, "rows"), (SQLiteThread, "write")]

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            asked.append(original.__module__)
            return original(*given, **named)

        return counted

    for kind, name in threads:
        monkeypatch.setattr(kind, name, counting(getattr(kind, name)))
    return asked


async def standing(worker: Worker) -> dict[str, int]:
    """What is in the broker: counts of ready, leased, delayed and dead."""
    return await worker.broker.standing(worker.transport)


async def state_of(worker: Worker, task_id: str) -> str | None:
    (found,) = await worker.records.get([task_id])
    return found.state if found is not None else None


async def _commit(worker: Worker, group: Sequence[Finish]) -> Sequence[Answer]:
    return await worker.committer.commit(group)


async def run_all(pair: CommitHarness, worker: Worker, finish: Callable[[Delivery], Finish] | None = None) -> list[str]:
    """Reclaim, run and finish until the broker is empty; return the ids of what ran, in order."""
    ran: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while True:
            await worker.consumer.reclaim()
            for delivery in await worker.admitted():
                ran.append(delivery.message.id)
                done = finish(delivery) if finish else Finish(delivery, record=record(pair, delivery.message.id))
                await worker.committer.commit([done])
            counts = await standing(worker)
            if not counts["ready"] + counts["leased"] + counts["delayed"]:
                return ran
            await pair.pass_time(0.02)


class CommitBasicsContract:
    """What a finish does."""

    async def test_a_finish_acknowledges_stores_and_pushes(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        caller = await pair.worker("caller", "unused")
        await caller.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        answers = await worker.committer.commit(
            [Finish(delivery, record=record(pair, "a", reply_to=caller.records.address))]
        )

        assert list(answers) == [COMMITTED]
        assert await state_of(caller, "a") == SUCCESS
        assert await standing(worker) == {"ready": 0, "leased": 0, "delayed": 0, "dead": 0}
        await caller.pushes.arrived(("a", SUCCESS))
        assert not worker.pushes.records

    async def test_an_empty_group_is_nothing(self, pair: CommitHarness) -> None:
        worker = await pair.worker()

        assert list(await worker.committer.commit([])) == []
        assert list((await worker.committer.admit([])).run) == []
        assert list(await asyncio.to_thread(worker.committer.renew, [])) == []

    async def test_a_finish_without_a_record_acknowledges(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        assert list(await worker.committer.commit([Finish(delivery)])) == [COMMITTED]

        assert await state_of(worker, "a") is None
        assert await run_all(pair, worker) == []

    async def test_a_chain_of_three_runs_link_by_link(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("1")])
        following = {"1": (envelope("2", priority=9),), "2": (envelope("3"),), "3": ()}

        def finish(delivery: Delivery) -> Finish:
            task_id = delivery.message.id
            return Finish(delivery, record=record(pair, task_id), envelopes=following[task_id])

        assert await run_all(pair, worker, finish) == ["1", "2", "3"]
        assert [await state_of(worker, task_id) for task_id in "123"] == [SUCCESS] * 3

    async def test_a_follow_up_may_be_due_later(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        retry = envelope("a", attempt=1, due=pair.now() + 1000)
        assert list(await worker.committer.commit([Finish(delivery, envelopes=(retry,))])) == [COMMITTED]

        assert await standing(worker) == {"ready": 0, "leased": 0, "delayed": 1, "dead": 0}

    async def test_a_large_group_is_committed_as_one(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope(f"{n}") for n in range(300)])
        held = await worker.admitted(300)

        answers = await worker.committer.commit(
            [
                Finish(
                    each,
                    record=record(pair, each.message.id),
                    envelopes=(envelope(f"{each.message.id}-next"),),
                )
                for each in held
            ]
        )

        assert list(answers) == [COMMITTED] * 300
        assert await standing(worker) == {"ready": 300, "leased": 0, "delayed": 0, "dead": 0}

    async def test_a_row_of_the_fleet_registry_is_written_with_the_renewal_and_costs_no_request(
        self, pair: CommitHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        renew = worker.committer.renew
        asked = counted(monkeypatch)

        await asyncio.to_thread(renew, [delivery])
        alone = len(asked)
        await asyncio.to_thread(renew, [delivery], FleetRow("me", b"zeroth", 100.0))
        assert len(asked) == 2 * alone

        assert list(await asyncio.to_thread(renew, [], FleetRow("me", b"first", 100.0))) == []
        assert list(await asyncio.to_thread(renew, [delivery], FleetRow("me", b"second", 100.0))) == []

        if worker.ledger.has_fleet:
            (found,) = await worker.ledger.fleet()
            assert (found.key, found.row) == ("me", b"second")
            assert 90 < found.left <= 100

    async def test_renewing_keeps_what_is_held_and_reports_what_is_lost(self, pair: CommitHarness) -> None:
        worker = await pair.worker("one")
        other = await pair.worker("other")
        await worker.transport.send([envelope("lost")])
        (lost,) = await worker.admitted()
        await pair.broker.reclaimed(other.consumer, 1)
        await other.admitted()
        await worker.transport.send([envelope("kept")])
        (kept,) = await worker.admitted()

        assert list(await asyncio.to_thread(worker.committer.renew, [lost, kept])) == [lost]

        for _ in range(8):
            await pair.pass_time(pair.broker.lease / 4)
            assert list(await asyncio.to_thread(worker.committer.renew, [kept])) == []
        assert list(await worker.committer.commit([Finish(kept, record=record(pair, "kept"))])) == [COMMITTED]


class CommitJoinContract:
    """Arrivals (P3)."""

    async def workflow(self, pair: CommitHarness, worker: Worker) -> None:
        """Send two members of a join."""
        members = (envelope("member-0"), envelope("member-1"))
        sent = Finish(None, envelopes=members, joining=JoinChanges(opened=(join(2),)))
        assert list(await worker.committer.commit([sent])) == [COMMITTED]

    def finish(self, pair: CommitHarness, *failing: str) -> Callable[[Delivery], Finish]:
        def finish(delivery: Delivery) -> Finish:
            task_id = delivery.message.id
            state = FAILURE if task_id in failing else SUCCESS
            joining = NO_JOIN_CHANGES
            if task_id.startswith("member-"):
                joining = arriving(task_id[-1], failed=task_id in failing)
            return Finish(delivery, record=record(pair, task_id, state), joining=joining)

        return finish

    async def test_two_finishes_release_what_comes_then(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await self.workflow(pair, worker)

        ran = await run_all(pair, worker, self.finish(pair))

        assert ran == ["member-0", "member-1", "then"]

    async def test_both_members_in_one_group_release_it_once(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await self.workflow(pair, worker)
        finish = self.finish(pair)
        held = await worker.admitted()

        assert list(await worker.committer.commit([finish(each) for each in held])) == [COMMITTED] * 2

        assert await run_all(pair, worker, finish) == ["then"]

    async def test_members_finished_by_two_workers_at_once_release_it_once(self, pair: CommitHarness) -> None:
        worker, other = await pair.worker("one"), await pair.worker("other")
        await self.workflow(pair, worker)
        finish = self.finish(pair)
        (first,) = await worker.admitted(1)
        (second,) = await other.admitted(1)

        await asyncio.gather(worker.committer.commit([finish(first)]), other.committer.commit([finish(second)]))

        assert await run_all(pair, worker, finish) == ["then"]

    async def test_the_first_failing_member_releases_it_once(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await self.workflow(pair, worker)

        ran = await run_all(pair, worker, self.finish(pair, "member-0", "member-1"))

        assert sorted(ran) == ["member-0", "member-1", "then"]
        (found,) = await worker.ledger.joined(["join"])
        assert found is not None
        assert found.failed
        assert list(found.members.values()) == await worker.records.get(["member-0"])

    async def test_the_record_of_a_finish_is_kept_where_it_arrives(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.committer.commit([opening(join(3))])
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        own = record(pair, "not stored")
        arrivals = (Arrival("join", "0"), Arrival("join", "1", own), Arrival("join", "2"))

        done = Finish(delivery, record=record(pair, "a"), joining=JoinChanges(arrivals=arrivals))
        assert list(await worker.committer.commit([done])) == [COMMITTED]

        assert await members(worker) == ["a", "not stored", "a"]
        assert await state_of(worker, "not stored") is None

    async def test_a_finish_opens_then_grows_then_arrives_then_lets_go(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.committer.commit([opening(join(1, join_id="read", then=("x",)))])
        await worker.committer.commit([Finish(None, record=record(pair, "m"), joining=arriving("0", join_id="read"))])
        (delivery,) = await worker.admitted()
        joining = JoinChanges(
            opened=(join(1), join(1, join_id="late", then=("late",))),
            grown=(JoinGrowth("join", 1),),
            arrivals=(Arrival("join", "0"), Arrival("join", "+1"), Arrival("late", "-", failed=True)),
            extended=(JoinExtension("join", pair.now() + 1000),),
            released=("read",),
        )

        done = Finish(delivery, record=record(pair, "x"), envelopes=(envelope("next"),), joining=joining)
        assert list(await worker.committer.commit([done])) == [COMMITTED]

        assert await members(worker, "read") is None
        assert await members(worker) == ["x", "x"]
        assert await run_all(pair, worker) == ["next", "then", "late"]

    async def test_what_never_runs_is_recorded_by_what_prevents_it(self, pair: CommitHarness) -> None:
        worker, caller = await pair.worker(), await pair.worker("caller", "unused")
        await worker.records.put([record(pair, "over")])
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        further = tuple(record(pair, name, FAILURE, reply_to=caller.records.address) for name in ("never", "over", "a"))

        done = Finish(delivery, record=record(pair, "a"), further=further)
        assert list(await worker.committer.commit([done])) == [COMMITTED]
        sent = Finish(None, further=(record(pair, "never sent", FAILURE), record(pair, "never")))
        assert list(await worker.committer.commit([sent])) == [COMMITTED]

        assert await state_of(worker, "never") == FAILURE
        assert await state_of(worker, "never sent") == FAILURE
        assert [await state_of(worker, name) for name in ("over", "a")] == [SUCCESS, SUCCESS]
        await caller.pushes.arrived(("never", FAILURE))

    @pytest.mark.parametrize(
        ("joining", "reason"),
        [
            (arriving("0"), "without a record"),
            (JoinChanges(opened=(join(0),)), "has the size 0"),
            (JoinChanges(grown=(JoinGrowth("join", -1),)), "can't grow by -1"),
        ],
    )
    async def test_what_can_not_be_done_at_a_join_is_refused_before_anything_is_done(
        self, pair: CommitHarness, joining: JoinChanges, reason: str
    ) -> None:
        worker = await pair.worker()
        await worker.committer.commit([opening(join(1))])
        await worker.transport.send([envelope("a"), envelope("b")])
        a, b = await worker.admitted()

        with pytest.raises(ValueError, match=reason):
            await worker.committer.commit([Finish(a, record=record(pair, "a")), Finish(b, joining=joining)])

        assert await state_of(worker, "a") is None
        assert await standing(worker) == {"ready": 0, "leased": 2, "delayed": 0, "dead": 0}

    async def test_sending_a_workflow_again_changes_nothing(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await self.workflow(pair, worker)
        (first,) = await worker.admitted(1)
        finish = self.finish(pair)
        await worker.committer.commit([finish(first)])
        counts = await standing(worker)

        sent = Finish(None, envelopes=(envelope("member-1"),), joining=JoinChanges(opened=(join(2),)))
        assert list(await worker.committer.commit([sent])) == [COMMITTED]

        if worker.broker.is_fencing:  # elsewhere the claims know it
            assert await standing(worker) == counts
        assert await run_all(pair, worker, finish) == ["member-1", "then"]

    async def test_an_outcome_without_a_delivery_is_stored_and_arrives_once(self, pair: CommitHarness) -> None:
        """A dead letter is terminal: whoever finds it fails its join."""
        worker, other = await pair.worker("one"), await pair.worker("other")
        await worker.committer.commit([opening(join(2))])
        lost = Finish(
            None,
            record=record(pair, "member-0", FAILURE),
            envelopes=(envelope("errback"),),
            joining=arriving("0", failed=True),
        )

        assert list(await worker.committer.commit([lost])) == [COMMITTED]
        assert list(await worker.committer.commit([lost])) == [COMMITTED]
        assert list(await other.committer.commit([lost])) == [COMMITTED]

        assert await state_of(worker, "member-0") == FAILURE
        assert sorted(await run_all(pair, worker)) == ["errback", "then"]


class CommitFenceContract:
    """What a lost lease and a repeat do: nothing."""

    async def test_a_lost_lease_changes_nothing_and_its_neighbours_are_committed(self, pair: CommitHarness) -> None:
        worker, other = await pair.worker("one"), await pair.worker("other")
        await worker.committer.commit([opening(join(1))])
        await worker.transport.send([envelope("lost")])
        (lost,) = await worker.admitted()
        await pair.broker.reclaimed(other.consumer, 1)
        (elsewhere,) = await other.admitted()
        await worker.transport.send([envelope("a"), envelope("b")])
        a, b = await worker.admitted()

        answers = await worker.committer.commit(
            [
                Finish(a, record=listed(pair, "a"), envelopes=(envelope("after a"),)),
                Finish(
                    lost,
                    record=listed(pair, "lost", FAILURE),
                    envelopes=(envelope("after lost"),),
                    joining=arriving("0", failed=True),
                    further=(record(pair, "never", FAILURE),),
                ),
                Finish(b, record=listed(pair, "b"), envelopes=(envelope("after b"),)),
            ]
        )

        assert list(answers) == [COMMITTED, LEASE_LOST, COMMITTED]
        if worker.records.has_index:
            assert {each.id for each in (await worker.records.find(FinishedQuery())).tasks} == {"a", "b"}
        assert [await state_of(worker, task_id) for task_id in ("a", "lost", "b")] == [SUCCESS, None, SUCCESS]
        assert await state_of(worker, "never") is None
        done = Finish(elsewhere, record=record(pair, "lost"), joining=arriving("0"))
        assert list(await other.committer.commit([done])) == [COMMITTED]
        assert sorted(await run_all(pair, other)) == ["after a", "after b", "then"]

    async def test_repeating_a_group_changes_nothing(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        read = join(1, join_id="read", then=("x", "y"))
        await worker.committer.commit([opening(join(2), join(1, join_id="grown", then=("last",)), read)])
        await worker.committer.commit([Finish(None, record=record(pair, "m"), joining=arriving("0", join_id="read"))])
        assert sorted(await run_all(pair, worker)) == ["x", "y"]
        await worker.transport.send([envelope("a"), envelope("b")])
        a, b = await worker.admitted()
        changes = JoinChanges(grown=(JoinGrowth("grown", 1),), arrivals=(Arrival("join", "0"),), released=("read",))
        group = [
            Finish(a, record=record(pair, "a"), envelopes=(envelope("next"),), joining=changes),
            Finish(b, record=record(pair, "b"), joining=arriving("1")),
        ]
        assert list(await worker.committer.commit(group)) == [COMMITTED, COMMITTED]
        counts = await standing(worker)

        assert set(await worker.committer.commit(group)) <= {COMMITTED, LEASE_LOST}

        if worker.broker.is_fencing:  # elsewhere the claims know it
            assert await standing(worker) == counts
        assert await members(worker, "read") == ["m"]
        for member in "01":
            arrived = Finish(None, record=record(pair, member), joining=arriving(member, join_id="grown"))
            await worker.committer.commit([arrived])
        assert sorted(await run_all(pair, worker)) == ["last", "next", "then"]

    async def test_a_commit_cancelled_at_any_point_is_done_or_done_again(self, pair: CommitHarness) -> None:
        """The state is looked at after the cancelled worker died and another one cleaned up."""
        for number in range(1, 100):
            worker = await pair.worker(f"cancelled-{number}", wrap=_slow if pair.is_ordered else None)
            other = await pair.worker(f"other-{number}")
            name, after = f"a{number}", f"after-a{number}"
            await worker.transport.send([envelope(name)])
            (delivery,) = await worker.admitted()
            group = [Finish(delivery, record=record(pair, name), envelopes=(envelope(after),))]
            answers = await outcome_cancelled_at(number, _commit(worker, group))

            def finish(delivery: Delivery, name: str = name, after: str = after) -> Finish:
                follows = (envelope(after),) if delivery.message.id == name else ()
                return Finish(delivery, record=record(pair, delivery.message.id), envelopes=follows)

            ran = Counter(await run_all(pair, other, finish))
            assert ran[after] == 1
            assert ran[name] <= 1
            assert [await state_of(other, task_id) for task_id in (name, after)] == [SUCCESS, SUCCESS]
            if answers is not None:
                assert list(answers) == [COMMITTED]
                return
        pytest.fail("a commit has no end of suspensions")


class CommitSettlementContract:
    """Finishes that are no acknowledgement."""

    async def test_handing_back_lets_another_run_it_at_once(self, pair: CommitHarness) -> None:
        worker, other = await pair.worker("one"), await pair.worker("other")
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        assert list(await worker.committer.commit([Finish(delivery, HandBack())])) == [COMMITTED]

        (again,) = await other.admitted(wait=PATIENCE)
        assert (again.message.id, again.deaths) == ("a", 0)
        assert list(await other.committer.commit([Finish(again, record=record(pair, "a"))])) == [COMMITTED]

    async def test_handing_back_lets_the_same_worker_run_it_again(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        await worker.committer.commit([Finish(delivery, HandBack())])

        assert await run_all(pair, worker) == ["a"]

    async def test_handing_back_with_a_delay_parks_it(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()

        assert list(await worker.committer.commit([Finish(delivery, HandBack(0.5))])) == [COMMITTED]

        assert await standing(worker) == {"ready": 0, "leased": 0, "delayed": 1, "dead": 0}
        assert not await worker.admitted()
        await pair.pass_time(0.55)
        assert ids(await worker.admitted(wait=PATIENCE)) == ["a"]

    async def test_giving_up_stores_the_outcome_and_sends_what_follows(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.committer.commit([opening(join(2))])
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        finish = Finish(
            delivery,
            GiveUp("malformed", "the body is not JSON"),
            record(pair, "a", FAILURE),
            (envelope("errback"),),
            arriving("0", failed=True),
        )

        assert list(await worker.committer.commit([finish])) == [COMMITTED]

        (letter,) = await worker.transport.dead_letters()
        assert (letter.reason, letter.detail) == ("malformed", "the body is not JSON")
        assert await state_of(worker, "a") == FAILURE
        assert sorted(await run_all(pair, worker)) == ["errback", "then"]

    async def test_what_was_revoked_is_admitted_apart(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("a"), envelope("revoked"), envelope("b")])
        await worker.ledger.revoke(["revoked"], terminate=False, expires=pair.now() + 1000)

        admission = await worker.committer.admit(await worker.consumer.receive(10, suspect=True, wait=0))

        assert ids(admission.run) == ["a", "b"]
        assert ids(admission.revoked) == ["revoked"]
        (revoked,) = admission.revoked
        finish = Finish(revoked, record=record(pair, "revoked", REVOKED))
        assert list(await worker.committer.commit([finish])) == [COMMITTED]
        assert await state_of(worker, "revoked") == REVOKED


class CommitContract(CommitBasicsContract, CommitJoinContract, CommitFenceContract, CommitSettlementContract):
    """All that every commit keeps."""


class OrderedContract:
    """What the ordered commit keeps though its steps are apart."""

    #: The calls of one commit, in their order.
    steps = pytest.mark.parametrize("step", ["close", "send", "settle"])
    moments = pytest.mark.parametrize("moment", ["before", "after"])

    #: What runs after "a", if each of its changes at joins is made once: the second join waits for two members.
    followed: ClassVar = ["last", "next", "then"]

    def finish(self, pair: CommitHarness) -> Callable[[Delivery], Finish]:
        second = join(1, join_id="second", then=("last",))
        changes = JoinChanges((second,), (JoinGrowth("second", 1),), (Arrival("join", "0"),))

        def finish(delivery: Delivery) -> Finish:
            task_id = delivery.message.id
            done = record(pair, task_id)
            if task_id == "a":
                return Finish(delivery, ACK, done, (envelope("next"),), changes, (record(pair, "never", FAILURE),))
            return Finish(delivery, record=done, joining=arriving(task_id, join_id="second"))

        return finish

    async def started(self, pair: CommitHarness, faults: Faults) -> tuple[Worker, Delivery]:
        """Return a worker with faults, and what it runs: a member of a join of one."""
        worker = await pair.worker("faulty", wrap=faults.wrap)
        await worker.committer.commit(
            [Finish(None, envelopes=(envelope("a"),), joining=JoinChanges(opened=(join(1),)))]
        )
        (delivery,) = await worker.admitted()
        return worker, delivery

    @steps
    @moments
    async def test_a_death_between_two_steps_is_finished_by_whoever_gets_it_next(
        self, ordered_pair: CommitHarness, step: str, moment: str
    ) -> None:
        faults = Faults()
        worker, delivery = await self.started(ordered_pair, faults)
        faults.arm(step, moment)
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([self.finish(ordered_pair)(delivery)])
        other = await ordered_pair.worker("other")

        ran = Counter(await run_all(ordered_pair, other, self.finish(ordered_pair)))

        ran_again = step == "close" and moment == "before"
        assert ran == Counter(["a"] * ran_again + self.followed)
        assert [await state_of(other, task_id) for task_id in ("a", *self.followed)] == [SUCCESS] * 4
        assert await state_of(other, "never") == FAILURE

    @steps
    @moments
    async def test_a_commit_cut_off_between_two_steps_may_be_repeated(
        self, ordered_pair: CommitHarness, step: str, moment: str
    ) -> None:
        faults = Faults()
        worker, delivery = await self.started(ordered_pair, faults)
        group = [self.finish(ordered_pair)(delivery)]
        faults.arm(step, moment)
        with pytest.raises(ConnectionLost):
            await worker.committer.commit(group)

        assert list(await worker.committer.commit(group)) == [COMMITTED]

        assert Counter(await run_all(ordered_pair, worker, self.finish(ordered_pair))) == Counter(self.followed)

    @pytest.mark.parametrize("step", ["claim", "send", "settle"])
    @moments
    async def test_an_intake_cut_off_between_two_steps_may_be_repeated(
        self, ordered_pair: CommitHarness, step: str, moment: str
    ) -> None:
        """The batch holds one that ran, whose follow-ups are sent again, and one that did not."""
        faults = Faults()
        worker, delivery = await self.started(ordered_pair, faults)
        faults.arm("send", "before")
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([self.finish(ordered_pair)(delivery)])
        late_faults = Faults()
        other = await ordered_pair.worker("other", wrap=late_faults.wrap)
        await ordered_pair.broker.reclaimed(other.consumer, 1)
        await other.transport.send([envelope("fresh")])
        received = await other.consumer.receive(10, suspect=True, wait=PATIENCE)
        assert ids(received) == ["a", "fresh"]
        late_faults.arm(step, moment)
        with pytest.raises(ConnectionLost):
            await other.committer.admit(received)

        (fresh,) = (await other.committer.admit(received)).run

        assert fresh.message.id == "fresh"
        await other.committer.commit([Finish(fresh, record=record(ordered_pair, "fresh"))])
        ran = await run_all(ordered_pair, other, self.finish(ordered_pair))
        assert Counter(ran) == Counter(self.followed)

    @pytest.mark.parametrize("step", ["close", "settle"])
    @moments
    async def test_a_hand_back_cut_off_between_two_steps_runs_again(
        self, ordered_pair: CommitHarness, step: str, moment: str
    ) -> None:
        faults = Faults()
        worker, delivery = await self.started(ordered_pair, faults)
        faults.arm(step, moment)
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([Finish(delivery, HandBack())])
        other = await ordered_pair.worker("other")

        ran = await run_all(ordered_pair, other, self.finish(ordered_pair))

        assert Counter(ran) == Counter(["a", *self.followed])

    async def test_a_hand_back_cut_off_may_be_repeated(self, ordered_pair: CommitHarness) -> None:
        faults = Faults()
        worker, delivery = await self.started(ordered_pair, faults)
        faults.arm("settle", "before")
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([Finish(delivery, HandBack())])

        assert list(await worker.committer.commit([Finish(delivery, HandBack())])) == [COMMITTED]

        assert Counter(await run_all(ordered_pair, worker, self.finish(ordered_pair))) == Counter(["a", *self.followed])

    async def test_what_another_worker_runs_is_parked_until_its_claim_ends(self, ordered_pair: CommitHarness) -> None:
        worker = await ordered_pair.worker()
        await worker.transport.send([envelope("a"), envelope("b")])
        begins = ordered_pair.now()
        await worker.ledger.claim([("a", 0)], "stranger", 0.5)
        ends = ordered_pair.now() + 0.5

        assert ids(await worker.admitted()) == ["b"]

        is_parked = (await standing(worker))["delayed"] == 1
        assert is_parked or ordered_pair.now() >= begins + 0.5  # a machine may have been slower than that
        await ordered_pair.pass_time(0.55)
        admitted: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while not admitted:
                admitted = ids(await worker.admitted(wait=0.1))
                await ordered_pair.pass_time(0.02)
        assert admitted == ["a"]
        assert ordered_pair.now() >= ends - 0.01

    async def test_what_comes_twice_to_the_worker_that_runs_it_is_parked(self, ordered_pair: CommitHarness) -> None:
        worker = await ordered_pair.worker()
        await worker.transport.send([envelope("a")])
        received = await worker.consumer.receive(10, suspect=True, wait=0)
        assert ids((await worker.committer.admit(received)).run) == ["a"]

        assert not (await worker.committer.admit(received)).run

        assert (await standing(worker))["delayed"] == 1

    async def test_who_lost_only_the_lease_lost_the_delivery(self, ordered_pair: CommitHarness) -> None:
        worker, other = await ordered_pair.worker("one"), await ordered_pair.worker("other")
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        await ordered_pair.broker.reclaimed(other.consumer, 1)
        await other.consumer.receive(10, suspect=True, wait=PATIENCE)

        lost = await asyncio.to_thread(worker.committer.renew, [delivery])

        # Where the broker knows no leases, the claim is the right to run, and that is still there.
        assert list(lost) == ([delivery] if ordered_pair.broker.is_fencing else [])

    async def test_an_outcome_without_a_delivery_may_be_finished_by_another(self, ordered_pair: CommitHarness) -> None:
        faults = Faults()
        worker = await ordered_pair.worker("faulty", wrap=faults.wrap)
        other = await ordered_pair.worker("other")
        await worker.committer.commit([opening(join(2))])
        ended = record(ordered_pair, "m", FAILURE)
        lost = Finish(None, ACK, ended, (envelope("errback"),), arriving("0", failed=True))
        faults.arm("send", "before")
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([lost])

        assert list(await other.committer.commit([lost])) == [COMMITTED]

        assert Counter(await run_all(ordered_pair, other)) == Counter(["errback", "then"])

    @moments
    @pytest.mark.parametrize("step", ["claim", "close", "send"])
    async def test_what_is_done_at_joins_without_a_delivery_is_done_once(
        self, ordered_pair: CommitHarness, step: str, moment: str
    ) -> None:
        faults = Faults()
        worker = await ordered_pair.worker("faulty", wrap=faults.wrap)
        await worker.committer.commit([opening(join(2), join(1, join_id="read", then=("x", "y")))])
        ended = record(ordered_pair, "m")
        await worker.committer.commit([Finish(None, record=ended, joining=arriving("0", join_id="read"))])
        assert sorted(await run_all(ordered_pair, worker)) == ["x", "y"]
        dead = record(ordered_pair, "x died", FAILURE)
        finish = Finish(
            None,
            record=dead,
            envelopes=(envelope("errback"),),
            joining=JoinChanges((), (JoinGrowth("join", 1),), released=("read",)),
        )
        faults.arm(step, moment)
        with pytest.raises(ConnectionLost):
            await worker.committer.commit([finish])

        for _ in range(2):
            assert list(await worker.committer.commit([finish])) == [COMMITTED]

        assert await members(worker, "read") == ["m"]
        for member in "012":
            await worker.committer.commit([Finish(None, record=ended, joining=arriving(member))])
        assert Counter(await run_all(ordered_pair, worker)) == Counter(["errback", "then"])
        assert await members(worker) == ["m"] * 3

    async def test_what_is_done_at_joins_without_a_delivery_and_a_record_is_done_once(
        self, ordered_pair: CommitHarness
    ) -> None:
        """What was acknowledged before it ran, with its result ignored, ends so."""
        worker = await ordered_pair.worker()
        await worker.committer.commit([Finish(None, joining=JoinChanges(opened=(join(1),)))])
        grown = Finish(None, envelopes=(envelope("a"),), joining=JoinChanges(grown=(JoinGrowth("join", 1),)))
        left = Finish(None, joining=JoinChanges(released=("join",)))

        for finish in (grown, grown, left, left):
            assert await worker.committer.commit([finish]) == [COMMITTED]

        assert await run_all(ordered_pair, worker) == ["a"]
        kept = record(ordered_pair, "m")
        for member, ended in (("0", False), ("1", True)):
            arrival = Finish(None, joining=JoinChanges(arrivals=(Arrival("join", member, kept),)))
            await worker.committer.commit([arrival])
            assert await run_all(ordered_pair, worker) == (["then"] if ended else [])

    async def test_who_lost_only_the_claim_lost_the_delivery(self, ordered_pair: CommitHarness) -> None:
        worker = await ordered_pair.worker()
        await worker.transport.send([envelope("a")])
        (delivery,) = await worker.admitted()
        await worker.ledger.close([_given_up(delivery)], "worker")

        assert list(await asyncio.to_thread(worker.committer.renew, [delivery])) == [delivery]


def _given_up(delivery: Delivery) -> Closing:
    return Closing(delivery.message.key, is_done=False)


class Faults:
    """Lets one call of a transport or store fail: before it was done, or after, its answer lost."""

    def __init__(self) -> None:
        self._armed: tuple[str, str] | None = None

    def arm(self, call: str, moment: str) -> None:
        self._armed = (call, moment)

    def wrap(self, transport: Broker, kept: Kept) -> tuple[Broker, Kept]:
        return _seen(transport, kept, self._around)

    async def _around(self, call: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self._fail_at(call, "before")
        answer = await work()
        self._fail_at(call, "after")
        return answer

    def _fail_at(self, call: str, moment: str) -> None:
        if self._armed == (call, moment):
            self._armed = None
            raise ConnectionLost(f"cut {moment} {call}")


def _slow(transport: Broker, kept: Kept) -> tuple[Broker, Kept]:
    """Make every call take some turns of the loop, in which it may be cancelled."""

    async def around(call: str, work: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        answer = await work()
        await asyncio.sleep(0)
        return answer

    return _seen(transport, kept, around)


Around = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def _seen(transport: Broker, kept: Kept, around: Around) -> tuple[Broker, Kept]:
    records, ledger = _Seen(kept.records, around), _Seen(kept.ledger, around)
    if kept.ledger.records is kept.records:
        ledger.records = records
    return cast(Broker, _Seen(transport, around)), Kept(cast(RecordStore, records), cast(Ledger, ledger), kept.bus)


class _Seen:
    """Stands before a broker, a ledger or records, and has `around` called with each of its coroutine calls."""

    records: Any

    def __init__(self, real: object, around: Around) -> None:
        self._real = real
        self._around = around

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self._around(name, lambda: found(*args, **kwargs))
