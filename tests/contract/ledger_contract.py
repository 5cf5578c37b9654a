"""The contract of a ledger as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import asyncio
import itertools
import random
from functools import partial

import pytest

from aiotq.results import (
    AlreadyDone,
    Arrival,
    Booking,
    Caution,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    JoinChanges,
    JoinExtension,
    JoinGrowth,
    Record,
    Suspected,
)
from aiotq.results.decisions import BOOKING_GRACE
from aiotq.states import FAILURE, REVOKED, SUCCESS
from aiotq.wire.message import Envelope, Message

from ..waiting import wait_until
from .fleet_contract import FleetContract
from .harness import Kept, KeptHarness, Pushes, envelope
from .permit_contract import PermitContract
from .record_contract import record

KEY = ("a", 0)


def join(
    size: int,
    *,
    join_id: str = "join",
    then: tuple[str, ...] = ("then",),
    patience: float = 1000.0,
    until: float = 0.0,
    about: str = "",
) -> Join:
    return Join(join_id, size, tuple(map(envelope, then)), patience, about, until)


def member_record(member: object, body: bytes = b"4", *, failed: bool = False) -> Record:
    return Record(f"task-{member}", FAILURE if failed else SUCCESS, body, "application/json", 4e9)


async def close(store: Kept, closing: Closing, holder: str = "me") -> tuple[Envelope, ...] | None:
    (answer,) = await store.ledger.close([closing], holder)
    return answer


_runs = itertools.count()


async def run(store: Kept, joining: JoinChanges, record: Record | None = None) -> list[str]:
    """Close a run under a claim of its own; return the ids of what is to be sent."""
    key = (f"run-{next(_runs)}", 0)
    await store.ledger.claim([key], "me", 100.0)
    answer = await close(store, Closing(key, record, joining=joining))
    assert answer is not None
    return [each.message.id for each in answer]


async def arrive(store: Kept, member: object, *, failed: bool = False, join_id: str = "join") -> list[str]:
    """Run a member to its end; return the ids of what is to be sent."""
    arrival = Arrival(join_id, f"{member}", failed=failed)
    return await run(store, JoinChanges(arrivals=(arrival,)), member_record(member, failed=failed))


#: What a join told about, its members and whether it failed.
Over = tuple[str, dict[str, Record], bool]


def over(about: str, members: dict[str, Record], *, failed: bool = False) -> Over:
    return about, members, failed


async def joined(store: Kept, join_id: str = "join") -> Over | None:
    (found,) = await store.ledger.joined([join_id])
    return over(found.about, dict(found.members), failed=found.failed) if found is not None else None


class OutcomeContract:
    """What a close does to records, where the ledger keeps them."""

    async def test_a_terminal_state_stays_when_a_second_run_ends(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.records.put([record(results, state=REVOKED)])
        await store.ledger.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, record(results, state=SUCCESS))) == ()

        (found,) = await store.records.get(["a"])
        assert found is not None
        assert found.state == REVOKED

    async def test_a_forgotten_record_is_gone_and_its_task_may_run_again(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 100.0)
        await close(store, Closing(KEY, record(results)))

        await store.forget(["a", "unheard-of"])

        assert list(await store.records.get(["a"])) == [None]
        assert list(await store.ledger.claim([KEY], "other", 100.0)) == [Claimed()]

    async def test_forgetting_leaves_a_running_claim(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 100.0)

        await store.forget(["a"])

        (claim,) = await store.ledger.claim([KEY], "other", 100.0)
        assert isinstance(claim, HeldElsewhere)

    async def test_the_record_of_a_close_is_pushed(self, results: KeptHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()
        await worker.ledger.claim([KEY], "me", 100.0)

        await close(worker, Closing(KEY, record(results, reply_to=caller.records.address)))

        await heard.arrived(("a", SUCCESS))


class RevocationContract:
    """What is not to be run (P8)."""

    async def test_a_revocation_is_remembered_until_it_expires(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        await store.ledger.revoke(["a"], terminate=False, expires=results.now() + 0.15)
        await store.ledger.revoke(["b"], terminate=False, expires=results.now() + 1000)

        assert set(await worker.ledger.revoked(["a", "b", "c"])) == {"a", "b"}
        await results.pass_time(0.2)
        assert set(await worker.ledger.revoked(["a", "b", "c"])) == {"b"}
        assert set(await worker.ledger.revoked([])) == set()

    async def test_revoking_again_never_shortens_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.revoke(["a"], terminate=False, expires=results.now() + 1000)
        await store.ledger.revoke(["a"], terminate=False, expires=results.now() + 0.05)

        await results.pass_time(0.1)

        assert set(await store.ledger.revoked(["a"])) == {"a"}

    async def test_what_is_revoked_is_listed_the_last_to_end_first(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        now = results.now()
        await store.ledger.revoke(["short"], terminate=False, expires=now + 100)
        await store.ledger.revoke(["long", "\ttask proj.a"], terminate=False, expires=now + 200)
        await store.ledger.revoke(["gone"], terminate=False, expires=now + 0.1)
        await results.pass_time(0.2)

        listed = await store.ledger.revocations()

        assert list(listed)[-1] == "short"
        assert set(listed) == {"short", "long", "\ttask proj.a"}
        assert abs(listed["short"] - now - 100) < 5
        assert len(await store.ledger.revocations(2)) == 2

    async def test_whether_anything_is_revoked_is_known(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        assert not await worker.ledger.has_revocations()

        await store.ledger.revoke(["a"], terminate=False, expires=results.now() + 1000)

        assert await worker.ledger.has_revocations()

    async def test_what_is_not_revoked_any_more_may_run(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        await store.ledger.revoke(["a", "b"], terminate=False, expires=results.now() + 1000)

        await store.ledger.unrevoke(["a", "c"])
        await store.ledger.unrevoke([])

        assert set(await worker.ledger.revoked(["a", "b"])) == {"b"}

    async def test_a_revocation_that_terminates_is_told_to_all_who_listen(self, results: KeptHarness) -> None:
        store, own = await results.connect()
        _, other = await results.connect()

        await store.ledger.revoke(["quiet"], terminate=False, expires=results.now() + 1000)
        await store.ledger.revoke(["a", "b"], terminate=True, expires=results.now() + 1000)

        for heard in (own, other):
            await wait_until(partial({"a", "b"}.issubset, heard.revoked), "the revocation was told")
            assert set(heard.revoked) == {"a", "b"}

    async def test_a_ledger_that_was_left_hears_nothing(self, results: KeptHarness) -> None:
        worker, _ = await results.connect()
        async with results.connected() as gone:
            heard = Pushes(gone)

        await worker.ledger.revoke(["a"], terminate=True, expires=results.now() + 100)
        await results.pass_time(0.02)

        assert not heard.revoked

    async def test_many_are_revoked_at_once(self, results: KeptHarness) -> None:
        store, heard = await results.connect()
        ids = [f"{number}".rjust(250, "x") for number in range(1000)]

        await store.ledger.revoke(ids, terminate=True, expires=results.now() + 1000)

        await wait_until(lambda: set(heard.revoked) == set(ids), "all were told")


class ClaimContract:
    """Whose a run is."""

    async def test_a_free_message_is_claimed_and_its_holder_keeps_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.ledger.claim([KEY, ("a", 1)], "me", 100.0)) == [Claimed(), Claimed()]
        assert list(await store.ledger.claim([KEY], "me", 100.0)) == [Claimed()]

    async def test_a_live_claim_of_another_says_until_when(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        before = results.now()
        await store.ledger.claim([KEY], "me", 50.0)

        (claim, free) = await other.ledger.claim([KEY, ("b", 0)], "other", 100.0)

        assert isinstance(claim, HeldElsewhere)
        assert before + 50 <= claim.until <= results.now() + 50
        assert free == Claimed()

    async def test_an_ended_claim_passes_on_and_its_holder_has_lost_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 0.1)
        await results.pass_time(0.15)

        assert list(await other.ledger.claim([KEY], "other", 100.0)) == [Claimed(1)]

        assert set(await asyncio.to_thread(store.ledger.renew_claims, [KEY], "me", 100.0)) == {KEY}
        assert await close(store, Closing(KEY, record(results), (envelope("next"),))) is None
        assert list(await store.records.get(["a"])) == [None]
        (claim,) = await store.ledger.claim([KEY], "me", 100.0)
        assert isinstance(claim, HeldElsewhere)

    async def test_a_renewed_claim_goes_on(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 0.3)

        for _ in range(6):
            await results.pass_time(0.1)
            assert set(await asyncio.to_thread(store.ledger.renew_claims, [KEY], "me", 0.3)) == set()

        (claim,) = await other.ledger.claim([KEY], "other", 100.0)
        assert isinstance(claim, HeldElsewhere)

    async def test_what_was_never_claimed_can_not_be_renewed_or_closed(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        assert set(await asyncio.to_thread(store.ledger.renew_claims, [KEY], "me", 100.0)) == {KEY}
        assert await close(store, Closing(KEY, record(results))) is None
        assert list(await store.records.get(["a"])) == [None]

    async def test_a_claim_that_was_given_up_is_free_at_once(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, is_done=False)) == ()

        assert list(await store.ledger.claim([KEY], "other", 100.0)) == [Claimed()]

    async def died_with(self, results: KeptHarness, store: Kept, *holders: str) -> None:
        """Let each of `holders` claim the message and not renew it."""
        for holder in holders:
            await store.ledger.claim([KEY], holder, 0.1)
            await results.pass_time(0.15)

    async def test_a_claim_counts_the_holders_that_died_with_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await self.died_with(results, store, "first", "second")

        assert list(await other.ledger.claim([KEY], "third", 100.0)) == [Claimed(2)]
        assert list(await other.ledger.claim([KEY], "third", 100.0)) == [Claimed(2)]

    async def test_a_claim_that_was_given_up_has_killed_nobody_and_remembers_who_died(
        self, results: KeptHarness
    ) -> None:
        store, _ = await results.connect()
        await self.died_with(results, store, "first")
        await store.ledger.claim([KEY], "second", 100.0)

        await store.ledger.close([Closing(KEY, is_done=False)], "second")

        assert list(await store.ledger.claim([KEY], "third", 100.0)) == [Claimed(1)]

    async def test_a_holder_that_comes_back_takes_back_its_death(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await self.died_with(results, store, "sleeper")
        await store.ledger.claim([KEY], "second", 100.0)

        assert set(await asyncio.to_thread(store.ledger.renew_claims, [KEY], "sleeper", 100.0)) == {KEY}

        assert list(await store.ledger.claim([KEY], "second", 100.0)) == [Claimed(0)]
        await store.ledger.close([Closing(KEY, is_done=False)], "second")
        assert list(await store.ledger.claim([KEY], "third", 100.0)) == [Claimed(0)]

    async def test_no_more_suspects_are_claimed_than_there_is_room_for(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        suspects = [("a", 0), ("b", 0)]
        for holder in ("first", "second"):
            await store.ledger.claim(suspects, holder, 0.1)
            await results.pass_time(0.15)
        keys = [*suspects, ("normal", 0)]

        assert list(await store.ledger.claim(keys, "me", 100.0, Caution(2, 0))) == [
            Suspected(2),
            Suspected(2),
            Claimed(),
        ]
        assert list(await store.ledger.claim(keys, "me", 100.0, Caution(2, 1))) == [Claimed(2), Suspected(2), Claimed()]
        assert list(await store.ledger.claim(keys, "me", 100.0, Caution(3, 0))) == [Claimed(2), Claimed(2), Claimed()]

    async def test_of_two_who_race_for_a_claim_one_gets_it(self, results: KeptHarness) -> None:
        stores = [(await results.connect())[0] for _ in range(2)]
        keys = [(f"{n}", 0) for n in range(30)]

        answers = await asyncio.gather(
            *(store.ledger.claim([key], f"holder-{n}", 100.0) for key in keys for n, store in enumerate(stores))
        )

        for first, second in zip(answers[::2], answers[1::2], strict=True):
            assert {type(first[0]), type(second[0])} == {Claimed, HeldElsewhere}

    async def test_a_closed_claim_gives_what_follows_to_everyone_who_claims_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        following = (
            envelope("next", priority=7, due=results.now() + 5, attempt=3),
            envelope("link", "other"),
        )
        await store.ledger.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, record(results), following)) == following

        assert list(await other.ledger.claim([KEY], "other", 100.0)) == [AlreadyDone(following)]
        assert list(await store.ledger.claim([KEY], "me", 100.0)) == [AlreadyDone(following)]
        assert await close(other, Closing(KEY, record(results, state=FAILURE)), "other") is None
        (found,) = await store.records.get(["a"])
        assert found is not None
        assert found.state == SUCCESS

    async def test_closing_again_answers_as_the_first_time_and_changes_nothing(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1), join(1, join_id="grown"), join(1, join_id="read", then=("x", "y"))])
        await arrive(store, 0, join_id="read")
        await store.ledger.claim([KEY], "me", 100.0)
        joining = JoinChanges(
            opened=(join(1, join_id="opened", then=("first",)),),
            grown=(JoinGrowth("grown", 1),),
            arrivals=(Arrival("join", "0"), Arrival("opened", "0")),
            released=("read",),
        )
        closing = Closing(KEY, record(results), (envelope("next"),), joining)

        first = await close(store, closing)
        second = await close(store, closing)

        assert first == second
        assert [each.message.id for each in first or ()] == ["next", "then", "first"]
        assert await joined(store, "read") is not None
        assert [await arrive(store, n, join_id="grown") for n in range(2)] == [[], ["then"]]

    async def test_records_of_others_are_stored_with_the_end_of_a_run(self, results: KeptHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()
        await worker.records.put([record(results, "over")])
        await worker.ledger.claim([KEY], "me", 100.0)
        names = ("never", "over", "a")
        further = tuple(record(results, name, FAILURE, reply_to=caller.records.address) for name in names)

        await close(worker, Closing(KEY, record(results), further=further))

        assert [each and each.state for each in await caller.records.get(names)] == [FAILURE, SUCCESS, SUCCESS]
        await heard.arrived(("never", FAILURE))

    async def test_a_lost_claim_does_not_fail_its_neighbours(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.claim([("a", 0), ("c", 0)], "me", 100.0)
        await store.ledger.claim([("b", 0)], "other", 100.0)

        answers = await store.ledger.close([Closing((name, 0), record(results, name)) for name in "abc"], "me")

        assert list(answers) == [(), None, ()]
        assert [each and each.id for each in await store.records.get(["a", "b", "c"])] == ["a", None, "c"]


class JoinContract:
    """Counted barriers (P3)."""

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_the_last_arrival_sends_then_once_in_any_order(
        self, results: KeptHarness, order: tuple[int, ...]
    ) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(3)])

        answers = [await arrive(store, member) for member in order]

        assert answers == [[], [], ["then"]]
        assert await arrive(store, 0) == []

    async def test_a_join_that_is_over_tells_how_its_members_ended(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.open_joins([join(2, about="what for: ä"), join(1, join_id="open")])
        began = results.now()
        uneven = Record("task", SUCCESS, bytes(range(256)), "application/x", 4e9 + 0.5, "somebody")

        assert await joined(other) is None
        await arrive(store, 0)
        assert await joined(other) is None
        await run(store, JoinChanges(arrivals=(Arrival("join", "+uuid"),)), uneven)

        assert await joined(other) == over("what for: ä", {"0": member_record(0), "+uuid": uneven})
        still_open, known, unknown = await other.ledger.joined(["open", "join", "unheard-of"])
        assert (still_open, unknown) == (None, None)
        assert known is not None
        assert began - 0.01 <= known.ended_at <= results.now() + 0.01
        assert list(await other.ledger.joined([])) == []

    async def test_arriving_twice_is_arriving_once_and_the_first_time_counts(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2)])

        assert await arrive(store, 0) == []
        assert await arrive(store, 0) == []
        assert await arrive(store, 0, failed=True) == []
        assert await run(store, JoinChanges(arrivals=(Arrival("join", "0"),)), member_record(0, b"other")) == []
        assert await arrive(store, 1) == ["then"]

        assert await joined(store) == over("", {"0": member_record(0), "1": member_record(1)})

    async def test_arriving_twice_in_one_step_is_arriving_once(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2)])
        twice = (Arrival("join", "0"), Arrival("join", "0", member_record("other"), failed=True))

        assert await run(store, JoinChanges(arrivals=twice), member_record(0)) == []
        assert await run(store, JoinChanges(arrivals=(Arrival("join", "1"), *twice)), member_record(1)) == ["then"]

        assert await joined(store) == over("", {"0": member_record(0), "1": member_record(1)})

    async def test_the_first_failure_ends_it_and_later_arrivals_change_nothing(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(4, about="x")])

        assert await arrive(store, 0) == []
        assert await arrive(store, 1, failed=True) == ["then"]
        assert await arrive(store, 2, failed=True) == []
        assert [await arrive(store, member) for member in (1, 2, 3)] == [[], [], []]

        assert await joined(store) == over("x", {"1": member_record(1, failed=True)}, failed=True)

    async def test_of_the_arrivals_of_one_step_those_before_the_end_count(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(3), join(1, join_id="one")])
        arrivals = (
            Arrival("join", "0"),
            Arrival("join", "1", failed=True),
            Arrival("join", "2", failed=True),
            Arrival("one", "0"),
            Arrival("one", "1"),
        )

        assert await run(store, JoinChanges(arrivals=arrivals), member_record("all")) == ["then", "then"]

        assert await joined(store) == over("", {"1": member_record("all")}, failed=True)
        assert await joined(store, "one") == over("", {"0": member_record("all")})

    async def test_a_complete_join_does_not_fail_any_more(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1)])

        assert await arrive(store, 0) == ["then"]
        assert await arrive(store, 0, failed=True) == []
        assert await arrive(store, 1, failed=True) == []

        assert await joined(store) == over("", {"0": member_record(0)})

    async def test_opening_a_join_again_does_not_forget_who_arrived(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2)])
        assert await arrive(store, 0) == []

        await store.ledger.open_joins([join(2)])

        assert await arrive(store, 1) == ["then"]
        await store.ledger.open_joins([join(2)])
        assert [await arrive(store, member) for member in range(2)] == [[], []]

    async def test_a_step_opens_then_grows_then_arrives_then_lets_go(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        joining = JoinChanges(
            opened=(join(1), join(1, join_id="done", then=("next",))),
            grown=(JoinGrowth("join", 1),),
            arrivals=(Arrival("join", "0"), Arrival("done", "0")),
            extended=(JoinExtension("join", results.now() + 2000),),
            released=("done",),
        )

        assert await run(store, joining, member_record(0)) == ["next"]

        assert await joined(store, "done") is None
        assert await arrive(store, 1) == ["then"]

    async def test_an_arrival_may_bring_a_record_of_its_own(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(3)])
        own, of_the_run = member_record("own"), member_record("run")
        arrivals = (Arrival("join", "0", own), Arrival("join", "1"), Arrival("join", "2", of_the_run))

        await run(store, JoinChanges(arrivals=arrivals), of_the_run)

        assert await joined(store) == over("", {"0": own, "1": of_the_run, "2": of_the_run})
        assert [each and each.id for each in await store.records.get([own.id, of_the_run.id])] == [None, of_the_run.id]

    async def test_an_arrival_without_a_record_is_refused_before_anything_is_done(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1)])
        await store.ledger.claim([KEY, ("b", 0)], "me", 100.0)
        closings = [
            Closing(KEY, record(results)),
            Closing(("b", 0), joining=JoinChanges(arrivals=(Arrival("join", "0"),))),
        ]

        with pytest.raises(ValueError, match="member '0' arrives at join join without a record"):
            await store.ledger.close(closings, "me")

        assert list(await store.records.get(["a"])) == [None]
        assert await arrive(store, 0) == ["then"]

    @pytest.mark.parametrize("size", [0, -1])
    async def test_a_join_of_nobody_is_refused(self, results: KeptHarness, size: int) -> None:
        store, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 100.0)

        with pytest.raises(ValueError, match=f"join join has the size {size}"):
            await store.ledger.open_joins([join(1, join_id="other"), join(size)])
        with pytest.raises(ValueError, match=f"join join has the size {size}"):
            await close(store, Closing(KEY, joining=JoinChanges(opened=(join(size),))))

        assert await arrive(store, 0, join_id="other") == []

    async def test_a_join_that_is_to_shrink_is_refused(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2)])

        with pytest.raises(ValueError, match="join join can't grow by -1"):
            await run(store, JoinChanges(grown=(JoinGrowth("join", -1),)))

        assert await arrive(store, 0) == []

    async def test_a_grown_join_waits_for_more(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1)])

        assert await run(store, JoinChanges(grown=(JoinGrowth("join", 1), JoinGrowth("join", 1)))) == []

        assert [await arrive(store, member) for member in ("0", "+x", "+y")] == [[], [], ["then"]]

    async def test_what_is_done_at_a_join_that_is_over_or_unknown_is_nothing(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1)])
        await arrive(store, 0)
        before = await joined(store)

        for join_id in ("join", "unheard-of"):
            assert await arrive(store, 1, join_id=join_id) == []
            growth, extension = JoinGrowth(join_id, 1), JoinExtension(join_id, results.now() + 1000)
            assert await run(store, JoinChanges(grown=(growth,), extended=(extension,))) == []
        assert await run(store, JoinChanges(released=("unheard-of",))) == []

        assert await joined(store) == before
        assert await joined(store, "unheard-of") is None
        assert await arrive(store, 1, join_id="unheard-of") == []

    async def test_a_join_is_kept_until_each_of_its_readers_let_go(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1, then=("a", "b", "c"))])
        await run(store, JoinChanges(released=("join",)))  # it is open, and so nobody can have read it
        assert await arrive(store, 0) == ["a", "b", "c"]

        for _ in range(3):
            assert await joined(store) is not None
            await run(store, JoinChanges(released=("join",)))

        assert await joined(store) is None
        await run(store, JoinChanges(released=("join",)))
        assert await arrive(store, 1) == []
        await store.ledger.open_joins([join(1)])
        assert await arrive(store, 0) == ["then"]

    async def test_a_failed_join_is_let_go_as_well(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2)])
        await arrive(store, 0)
        await arrive(store, 1, failed=True)

        await run(store, JoinChanges(released=("join",)))

        assert await joined(store) is None

    async def test_a_join_that_is_never_let_go_is_forgotten_its_patience_after_it_ended(
        self, results: KeptHarness
    ) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(1, patience=0.3), join(1, join_id="longer")])
        await results.pass_time(0.2)
        await arrive(store, 0)
        await arrive(store, 0, join_id="longer")
        await results.pass_time(0.2)
        assert await joined(store) is not None

        await results.pass_time(0.2)

        assert await joined(store) is None
        assert await joined(store, "longer") is not None

    async def test_what_a_join_sends_is_what_it_was_given(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        message = Message("then", "proj.body", bytes(range(256)), reply_to="caller", attempt=1, headers={"x": [1]})
        then = (Envelope(message, "bodies", 9, results.now() + 50), envelope("second"))
        await store.ledger.open_joins([Join("join", 1, then, 100.0)])
        await store.ledger.claim([KEY], "me", 100.0)
        joining = JoinChanges(arrivals=(Arrival("join", "0"),))

        assert await close(store, Closing(KEY, member_record(0), joining=joining)) == then

    async def test_a_thousand_concurrent_arrivals_send_then_once(self, results: KeptHarness) -> None:
        stores = [(await results.connect())[0] for _ in range(2)]
        await stores[0].ledger.open_joins([join(1000)])
        members = list(range(1000))
        random.Random(7).shuffle(members)

        async def arrive_together(store: Kept, members: list[int]) -> list[str]:
            keys = [(f"member-{member}", 0) for member in members]
            await store.ledger.claim(keys, f"holder-{store.records.address}", 100.0)
            closings = [
                Closing(key, member_record(member), joining=JoinChanges(arrivals=(Arrival("join", f"{member}"),)))
                for key, member in zip(keys, members, strict=True)
            ]
            answers = await store.ledger.close(closings, f"holder-{store.records.address}")
            return [each.message.id for answer in answers for each in answer or ()]

        sent = await asyncio.gather(*(arrive_together(stores[n % 2], members[n * 20 : n * 20 + 20]) for n in range(50)))

        assert [task_id for each in sent for task_id in each] == ["then"]
        found = await joined(stores[1])
        assert found is not None
        assert found[1] == {f"{member}": member_record(member) for member in members}

    async def test_a_join_of_ten_thousand_is_read_and_let_go(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(10_000)])
        arrivals = tuple(Arrival("join", f"{n}", member_record(n)) for n in range(10_000))
        assert await run(store, JoinChanges(arrivals=arrivals)) == ["then"]

        found = await joined(store)

        assert found is not None
        assert found[1] == {arrival.member: arrival.record for arrival in arrivals}
        await run(store, JoinChanges(released=("join",)))
        assert await joined(store) is None


class OverdueContract:
    """Joins at which nobody arrives (P3, P7)."""

    async def test_a_join_at_which_nobody_arrives_is_overdue_after_its_patience(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.open_joins([join(2, patience=0.2), join(1, join_id="patient")])
        assert list(await other.ledger.overdue()) == []

        await results.pass_time(0.25)

        assert list(await store.ledger.overdue()) == ["join"]
        assert list(await other.ledger.overdue()) == ["join"]

    async def test_an_overdue_join_is_open_until_an_arrival_fails_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2, patience=0.2)])
        await results.pass_time(0.25)
        assert list(await store.ledger.overdue()) == ["join"]

        assert await arrive(store, "-", failed=True) == ["then"]

        assert list(await store.ledger.overdue()) == []
        assert await arrive(store, "-", failed=True) == []

    async def test_what_is_over_is_not_overdue(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins(
            [join(1, join_id=name, patience=0.2) for name in ("complete", "failed", "released")]
        )
        await arrive(store, 0, join_id="complete")
        await arrive(store, 0, failed=True, join_id="failed")
        await arrive(store, 0, join_id="released")
        await run(store, JoinChanges(released=("released",)))

        await results.pass_time(0.25)

        assert list(await store.ledger.overdue()) == []

    async def test_every_arrival_begins_its_patience_anew(self, results: KeptHarness) -> None:
        """Whether anybody looks for overdue joins meanwhile or not."""
        store, _ = await results.connect()
        await store.ledger.open_joins([join(7, patience=0.4), join(7, join_id="unseen", patience=0.4)])
        for member in range(5):
            await results.pass_time(0.25)
            await arrive(store, member)
            await arrive(store, member, join_id="unseen")
            if member < 2:
                assert list(await store.ledger.overdue()) == []

        assert list(await store.ledger.overdue()) == []
        await arrive(store, 5)
        assert await arrive(store, 6) == ["then"]
        await results.pass_time(0.45)
        assert list(await store.ledger.overdue()) == ["unseen"]

    async def test_arriving_twice_does_not_begin_it_anew(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2, patience=0.3)])
        await arrive(store, 0)
        await results.pass_time(0.2)
        await arrive(store, 0)

        await results.pass_time(0.15)

        assert list(await store.ledger.overdue()) == ["join"]

    async def test_patience_begins_when_members_can_arrive(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        until = results.now() + 1.2
        await store.ledger.open_joins([join(2, patience=0.6, until=until), join(2, join_id="extended", patience=0.6)])
        extended = JoinExtension("extended", until), JoinExtension("extended", results.now() - 100)
        await run(store, JoinChanges(extended=extended))

        await results.pass_time(0.9)
        assert list(await store.ledger.overdue()) == []
        assert await arrive(store, 0) == []
        assert await arrive(store, 0, join_id="extended") == []
        await results.pass_time(0.6)
        assert list(await store.ledger.overdue()) == []

        await results.pass_time(0.6)
        assert sorted(await store.ledger.overdue()) == ["extended", "join"]

    async def test_no_more_than_asked_for_are_returned_and_none_is_hidden_behind_others(
        self, results: KeptHarness
    ) -> None:
        store, _ = await results.connect()
        await store.ledger.open_joins([join(2, join_id=f"alive-{n}", patience=0.2) for n in range(150)])
        await store.ledger.open_joins([join(2, join_id=f"{n}", patience=0.2) for n in range(30)])
        await results.pass_time(0.1)
        arrivals = tuple(Arrival(f"alive-{n}", "0", member_record(n)) for n in range(150))
        await run(store, JoinChanges(arrivals=arrivals))
        await results.pass_time(0.12)

        assert len(await store.ledger.overdue(7)) == 7
        assert len(await store.ledger.overdue(0)) == 0

        found: set[str] = set()
        while more := await store.ledger.overdue(12):
            for name in more:
                assert await arrive(store, "-", failed=True, join_id=name) == ["then"]
            found.update(name for name in more if not name.startswith("alive"))
        assert found == {f"{n}" for n in range(30)}


class BookingContract:
    """Starts under a rate limit."""

    async def test_starts_of_one_name_are_an_interval_apart(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()

        first = await store.ledger.book([Booking((f"{n}", 0), "add", 10.0) for n in range(3)])
        later = await other.ledger.book([Booking(("3", 0), "add", 10.0), Booking(("0", 0), "mul", 10.0)])

        assert [*first, *later] == [0, pytest.approx(10, abs=1), pytest.approx(20, abs=1), pytest.approx(30, abs=1), 0]

    async def test_a_message_keeps_the_start_it_has(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.book([Booking(("a", 0), "add", 10.0), Booking(("b", 0), "add", 10.0)])

        (again, c) = await store.ledger.book([Booking(("b", 0), "add", 10.0), Booking(("c", 0), "add", 10.0)])

        assert again == pytest.approx(10, abs=1)
        assert c == pytest.approx(20, abs=1)

    async def test_a_start_that_has_come_is_now(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.book([Booking(("a", 0), "add", 0.2), Booking(("b", 0), "add", 0.2)])
        await results.pass_time(0.22)

        assert list(await store.ledger.book([Booking(("b", 0), "add", 0.2)])) == [0]

    async def test_a_start_that_passed_long_ago_is_booked_again(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.book([Booking((name, 0), "add", 0.05) for name in "abcd"])
        await results.pass_time(0.05 * 3 + BOOKING_GRACE + 0.05)

        waits = await store.ledger.book([Booking((name, 0), "add", 0.05) for name in "bcd"])

        assert list(waits) == [0, pytest.approx(0.05, abs=0.02), pytest.approx(0.1, abs=0.02)]

    async def test_no_bookings_are_no_starts(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.ledger.book([])) == []


class LedgerContract(
    OutcomeContract,
    RevocationContract,
    ClaimContract,
    JoinContract,
    OverdueContract,
    BookingContract,
    PermitContract,
    FleetContract,
):
    """All that every ledger keeps."""
