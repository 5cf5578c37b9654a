"""The contract of a ledger as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import asyncio
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
    JoinChanges,
    JoinGrowth,
    Suspected,
)
from aiotq.results.decisions import BOOKING_GRACE
from aiotq.states import FAILURE, REVOKED, SUCCESS
from aiotq.testing.contracts.broker_harness import envelope
from aiotq.testing.contracts.harness import Kept, KeptHarness, Pushes
from aiotq.testing.contracts.records import record

from ..waiting import wait_until
from .fleet_contract import FleetContract
from .join_contract import KEY, JoinContract, OverdueContract, arrive, close, join, joined
from .permit_contract import PermitContract


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

    async def test_what_the_dead_hold_passes_on_at_once(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.claim([KEY], "me", 100.0)
        await store.ledger.claim([("b", 0)], "somebody", 100.0)

        claims = await other.ledger.claim([KEY, ("b", 0), ("c", 0)], "other", 100.0, dead=["nobody", "me"])

        assert [type(claim) for claim in claims] == [Claimed, HeldElsewhere, Claimed]
        assert claims[0] == Claimed(1)
        assert set(await asyncio.to_thread(store.ledger.renew_claims, [KEY], "me", 100.0)) == {KEY}

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

    async def test_a_burst_comes_at_once_after_a_pause(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        waits = await store.ledger.book([Booking((f"{n}", 0), "burst", 10.0, 3) for n in range(5)])

        assert list(waits) == [0, 0, 0, pytest.approx(10, abs=1), pytest.approx(20, abs=1)]

    async def test_a_start_counts_for_as_long_as_its_message_waits_for_other_limits(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        first = Booking(("a", 0), "add", 0.01, is_first=True)
        assert list(await store.ledger.book([first])) == [0]
        await results.pass_time(2 * BOOKING_GRACE)

        assert list(await store.ledger.book([first, Booking(("b", 0), "add", 100.0)])) == [0, 0]
        assert list(await store.ledger.book([first, Booking(("c", 0), "add", 100.0)])) == [0, pytest.approx(100, abs=9)]

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
