"""The contract of a results store as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import asyncio
import itertools
import random
from functools import partial

import pytest

from aiotq.message import Envelope, Message
from aiotq.results import (
    AlreadyDone,
    Arrival,
    Booking,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    Record,
    ResultStore,
)
from aiotq.results.base import BOOKING_GRACE
from aiotq.states import FAILURE, REVOKED, STARTED, SUCCESS

from ..waiting import wait_until
from .harness import Pushes, StoreHarness, envelope

KEY = ("a", 0)


def record(
    harness: StoreHarness,
    task_id: str = "a",
    state: str = SUCCESS,
    *,
    body: bytes = b"4",
    reply_to: str | None = None,
    lasts: float = 1000.0,
) -> Record:
    return Record(task_id, state, body, "application/json", harness.now() + lasts, reply_to)


def join(harness: StoreHarness, size: int, *, join_id: str = "join", lasts: float = 1000.0) -> Join:
    return Join(join_id, size, (envelope("then"),), (envelope("otherwise"),), harness.now() + lasts)


async def close(store: ResultStore, closing: Closing, holder: str = "me") -> tuple[Envelope, ...] | None:
    (answer,) = await store.close([closing], holder)
    return answer


async def arrive(store: ResultStore, index: int, *, failed: bool = False, run: int = 0) -> list[str] | None:
    """Run a member to its end, under a claim of its own; return the ids of what is to be sent."""
    key = (f"member-{index}-{run}", 0)
    await store.claim([key], "me", 100.0)
    answer = await close(store, Closing(key, arrivals=(Arrival("join", index, failed),)))
    return None if answer is None else [each.message.id for each in answer]


class RecordContract:
    """Outcomes."""

    async def test_an_unknown_id_has_no_record(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.get(["unheard-of"])) == [None]
        assert list(await store.get([])) == []

    async def test_a_record_is_read_as_it_was_written(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        written = Record("a", "PROGRESS", bytes(range(256)), "application/x", results.now() + 1000, "somebody")

        await store.put([written])

        assert list(await other.get(["b", "a", "a"])) == [None, written, written]

    async def test_the_newest_state_is_what_is_read(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        for state in (STARTED, "PROGRESS", SUCCESS):
            await store.put([record(results, state=state)])
            (found,) = await store.get(["a"])
            assert found is not None
            assert found.state == state

    @pytest.mark.parametrize("terminal", [SUCCESS, FAILURE, REVOKED])
    @pytest.mark.parametrize("later", [STARTED, SUCCESS, FAILURE])
    async def test_a_terminal_state_stays(self, results: StoreHarness, terminal: str, later: str) -> None:
        store, pushes = await results.connect()
        await store.put([record(results, state=terminal, body=b"first", reply_to=store.address)])
        await pushes.arrived(("a", terminal))

        await store.put([record(results, state=later, body=b"second", reply_to=store.address)])

        (found,) = await store.get(["a"])
        assert found is not None
        assert (found.state, found.body) == (terminal, b"first")
        assert b"second" not in [each.body for each in pushes.records]

    async def test_a_terminal_state_stays_when_a_second_run_ends(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.put([record(results, state=REVOKED)])
        await store.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, record(results, state=SUCCESS))) == ()

        (found,) = await store.get(["a"])
        assert found is not None
        assert found.state == REVOKED

    async def test_a_record_expires(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.put([record(results, lasts=0.1), record(results, "b")])

        await results.pass_time(0.15)

        (gone, kept) = await store.get(["a", "b"])
        assert gone is None
        assert kept is not None
        await store.put([record(results, state=STARTED)])
        (found,) = await store.get(["a"])
        assert found is not None
        assert found.state == STARTED

    async def test_a_forgotten_record_is_gone_and_its_task_may_run_again(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.claim([KEY], "me", 100.0)
        await close(store, Closing(KEY, record(results)))

        await store.forget(["a", "unheard-of"])

        assert list(await store.get(["a"])) == [None]
        assert list(await store.claim([KEY], "other", 100.0)) == [Claimed()]

    async def test_forgetting_leaves_a_running_claim(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.claim([KEY], "me", 100.0)

        await store.forget(["a"])

        (claim,) = await store.claim([KEY], "other", 100.0)
        assert isinstance(claim, HeldElsewhere)


class PushContract:
    """Who hears of a record."""

    async def test_a_record_reaches_the_process_it_replies_to_and_no_other(self, results: StoreHarness) -> None:
        caller, heard = await results.connect()
        bystander, overheard = await results.connect()
        worker, _ = await results.connect()
        assert len({caller.address, bystander.address, worker.address}) == 3

        await worker.put([record(results, state=STARTED, reply_to=caller.address)])
        await heard.arrived(("a", STARTED))
        await worker.claim([KEY], "me", 100.0)
        await close(worker, Closing(KEY, record(results, reply_to=caller.address)))
        await heard.arrived(("a", SUCCESS))

        await worker.put([record(results, "b", reply_to=bystander.address)])
        await overheard.arrived(("b", SUCCESS))
        assert {each.id for each in overheard.records} == {"b"}
        assert {each.id for each in heard.records} == {"a"}

    async def test_a_pushed_record_is_the_whole_record(self, results: StoreHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()
        written = record(results, body=bytes(range(256)) * 100, reply_to=caller.address)

        await worker.put([written])

        await heard.arrived(("a", SUCCESS))
        assert heard.records[-1] == written

    async def test_a_watched_record_reaches_whoever_watches(self, results: StoreHarness) -> None:
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        await watcher.watch("a")

        await worker.put([record(results, "b"), record(results, "a", reply_to="somebody who is gone")])

        await heard.arrived(("a", SUCCESS))
        assert {each.id for each in heard.records} == {"a"}

    async def test_after_unwatching_nothing_more_is_heard(self, results: StoreHarness) -> None:
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        await watcher.watch("a")
        await watcher.watch("b")
        await watcher.unwatch("a")
        await watcher.unwatch("never watched")

        await worker.put([record(results, "a")])
        await worker.put([record(results, "b")])

        await heard.arrived(("b", SUCCESS))
        assert {each.id for each in heard.records} == {"b"}

    async def test_no_record_is_missed_between_listening_and_looking(self, results: StoreHarness) -> None:
        """Whoever watches, then looks, knows: it was there to be read, or it will be pushed."""
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        names = [f"{n}" for n in range(50)]

        async def write() -> None:
            for name in names:
                await worker.put([record(results, name)])
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for name in names:
                await watcher.watch(name)
                (found,) = await watcher.get([name])
                if found is None:
                    await heard.arrived((name, SUCCESS))

    async def test_many_records_at_once_all_arrive(self, results: StoreHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()

        await worker.put([record(results, f"{n}", reply_to=caller.address) for n in range(500)])

        await heard.arrived(*((f"{n}", SUCCESS) for n in range(500)))

    async def test_a_store_that_was_left_hears_nothing(self, results: StoreHarness) -> None:
        worker, _ = await results.connect()
        async with results.connected() as gone:
            heard = Pushes(gone)
            await gone.watch("a")

        await worker.put([record(results, "a", reply_to=gone.address)])
        await worker.revoke(["a"], terminate=True, expires=results.now() + 100)
        await results.pass_time(0.02)

        assert not heard.records
        assert not heard.revoked


class RevocationContract:
    """What is not to be run (P8)."""

    async def test_a_revocation_is_remembered_until_it_expires(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        await store.revoke(["a"], terminate=False, expires=results.now() + 0.15)
        await store.revoke(["b"], terminate=False, expires=results.now() + 1000)

        assert set(await worker.revoked(["a", "b", "c"])) == {"a", "b"}
        await results.pass_time(0.2)
        assert set(await worker.revoked(["a", "b", "c"])) == {"b"}
        assert set(await worker.revoked([])) == set()

    async def test_revoking_again_never_shortens_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.revoke(["a"], terminate=False, expires=results.now() + 1000)
        await store.revoke(["a"], terminate=False, expires=results.now() + 0.05)

        await results.pass_time(0.1)

        assert set(await store.revoked(["a"])) == {"a"}

    async def test_a_revocation_that_terminates_is_told_to_all_who_listen(self, results: StoreHarness) -> None:
        store, own = await results.connect()
        _, other = await results.connect()

        await store.revoke(["quiet"], terminate=False, expires=results.now() + 1000)
        await store.revoke(["a", "b"], terminate=True, expires=results.now() + 1000)

        for heard in (own, other):
            await wait_until(partial({"a", "b"}.issubset, heard.revoked), "the revocation was told")
            assert set(heard.revoked) == {"a", "b"}


class ClaimContract:
    """Whose a run is."""

    async def test_a_free_message_is_claimed_and_its_holder_keeps_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.claim([KEY, ("a", 1)], "me", 100.0)) == [Claimed(), Claimed()]
        assert list(await store.claim([KEY], "me", 100.0)) == [Claimed()]

    async def test_a_live_claim_of_another_says_until_when(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        before = results.now()
        await store.claim([KEY], "me", 50.0)

        (claim, free) = await other.claim([KEY, ("b", 0)], "other", 100.0)

        assert isinstance(claim, HeldElsewhere)
        assert before + 50 <= claim.until <= results.now() + 50
        assert free == Claimed()

    async def test_an_ended_claim_passes_on_and_its_holder_has_lost_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.claim([KEY], "me", 0.1)
        await results.pass_time(0.15)

        assert list(await other.claim([KEY], "other", 100.0)) == [Claimed()]

        assert set(await asyncio.to_thread(store.renew_claims, [KEY], "me", 100.0)) == {KEY}
        assert await close(store, Closing(KEY, record(results), (envelope("next"),))) is None
        assert list(await store.get(["a"])) == [None]
        (claim,) = await store.claim([KEY], "me", 100.0)
        assert isinstance(claim, HeldElsewhere)

    async def test_a_renewed_claim_goes_on(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.claim([KEY], "me", 0.3)

        for _ in range(6):
            await results.pass_time(0.1)
            assert set(await asyncio.to_thread(store.renew_claims, [KEY], "me", 0.3)) == set()

        (claim,) = await other.claim([KEY], "other", 100.0)
        assert isinstance(claim, HeldElsewhere)

    async def test_what_was_never_claimed_can_not_be_renewed_or_closed(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert set(await asyncio.to_thread(store.renew_claims, [KEY], "me", 100.0)) == {KEY}
        assert await close(store, Closing(KEY, record(results))) is None
        assert list(await store.get(["a"])) == [None]

    async def test_a_claim_that_was_given_up_is_free_at_once(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, is_done=False)) == ()

        assert list(await store.claim([KEY], "other", 100.0)) == [Claimed()]

    async def test_of_two_who_race_for_a_claim_one_gets_it(self, results: StoreHarness) -> None:
        stores = [(await results.connect())[0] for _ in range(2)]
        keys = [(f"{n}", 0) for n in range(30)]

        answers = await asyncio.gather(
            *(store.claim([key], f"holder-{n}", 100.0) for key in keys for n, store in enumerate(stores))
        )

        for first, second in zip(answers[::2], answers[1::2], strict=True):
            assert {type(first[0]), type(second[0])} == {Claimed, HeldElsewhere}

    async def test_a_closed_claim_gives_what_follows_to_everyone_who_claims_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        following = (
            envelope("next", priority=7, due=results.now() + 5, attempt=3),
            envelope("link", "other"),
        )
        await store.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, record(results), following)) == following

        assert list(await other.claim([KEY], "other", 100.0)) == [AlreadyDone(following)]
        assert list(await store.claim([KEY], "me", 100.0)) == [AlreadyDone(following)]
        assert await close(other, Closing(KEY, record(results, state=FAILURE)), "other") is None
        (found,) = await store.get(["a"])
        assert found is not None
        assert found.state == SUCCESS

    async def test_closing_again_answers_as_the_first_time_and_changes_nothing(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 1)])
        await store.claim([KEY], "me", 100.0)
        closing = Closing(KEY, record(results), (envelope("next"),), (Arrival("join", 0),))

        first = await close(store, closing)
        second = await close(store, closing)

        assert first == second
        assert [each.message.id for each in first or ()] == ["next", "then"]

    async def test_a_lost_claim_does_not_fail_its_neighbours(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.claim([("a", 0), ("c", 0)], "me", 100.0)
        await store.claim([("b", 0)], "other", 100.0)

        answers = await store.close([Closing((name, 0), record(results, name)) for name in "abc"], "me")

        assert list(answers) == [(), None, ()]
        assert [each and each.id for each in await store.get(["a", "b", "c"])] == ["a", None, "c"]


class JoinContract:
    """Counted barriers (P3)."""

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_the_last_arrival_sends_then_once_in_any_order(
        self, results: StoreHarness, order: tuple[int, ...]
    ) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 3)])

        answers = [await arrive(store, index) for index in order]

        assert answers == [[], [], ["then"]]
        assert await arrive(store, 0, run=1) == []

    async def test_arriving_twice_is_arriving_once(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 2)])

        assert await arrive(store, 0) == []
        assert await arrive(store, 0, run=1) == []
        assert await arrive(store, 1) == ["then"]

    async def test_the_first_failure_sends_otherwise_and_later_arrivals_change_nothing(
        self, results: StoreHarness
    ) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 3)])

        assert await arrive(store, 0) == []
        assert await arrive(store, 1, failed=True) == ["otherwise"]
        assert await arrive(store, 2, failed=True) == []
        assert await arrive(store, 1, run=1) == []
        assert await arrive(store, 2, run=1) == []

    async def test_a_complete_join_does_not_fail_any_more(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 1)])

        assert await arrive(store, 0) == ["then"]
        assert await arrive(store, 0, failed=True, run=1) == []

    async def test_opening_a_join_again_does_not_forget_who_arrived(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 2)])
        assert await arrive(store, 0) == []

        await store.open_joins([join(results, 2)])

        assert await arrive(store, 1) == ["then"]
        await store.open_joins([join(results, 2)])
        assert await arrive(store, 0, run=1) == []
        assert await arrive(store, 1, run=1) == []

    async def test_joins_of_a_closing_are_open_before_its_arrivals_count(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.claim([KEY], "me", 100.0)

        answer = await close(store, Closing(KEY, joins=(join(results, 1),), arrivals=(Arrival("join", 0),)))

        assert [each.message.id for each in answer or ()] == ["then"]

    async def test_a_join_expires(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(results, 1, lasts=0.1)])

        await results.pass_time(0.15)

        assert await arrive(store, 0) == []

    async def test_an_arrival_at_an_unknown_join_is_nothing(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert await arrive(store, 0) == []

    async def test_what_a_join_sends_is_what_it_was_given(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        message = Message("then", "proj.body", bytes(range(256)), reply_to="caller", attempt=1, headers={"x": [1]})
        then = (Envelope(message, "bodies", 9, results.now() + 50), envelope("second"))
        await store.open_joins([Join("join", 1, then, (), results.now() + 100)])
        await store.claim([KEY], "me", 100.0)

        assert await close(store, Closing(KEY, arrivals=(Arrival("join", 0),))) == then

    async def test_a_thousand_concurrent_arrivals_send_then_once(self, results: StoreHarness) -> None:
        stores = [(await results.connect())[0] for _ in range(2)]
        await stores[0].open_joins([join(results, 1000)])
        members = list(range(1000))
        random.Random(7).shuffle(members)

        async def arrive_together(store: ResultStore, indexes: list[int]) -> list[str]:
            keys = [(f"member-{index}", 0) for index in indexes]
            await store.claim(keys, f"holder-{store.address}", 100.0)
            answers = await store.close(
                [Closing(key, arrivals=(Arrival("join", index),)) for key, index in zip(keys, indexes, strict=True)],
                f"holder-{store.address}",
            )
            return [each.message.id for answer in answers for each in answer or ()]

        sent = await asyncio.gather(*(arrive_together(stores[n % 2], members[n * 20 : n * 20 + 20]) for n in range(50)))

        assert [task_id for each in sent for task_id in each] == ["then"]


class BookingContract:
    """Starts under a rate limit."""

    async def test_starts_of_one_name_are_an_interval_apart(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()

        first = await store.book([Booking((f"{n}", 0), "add", 10.0) for n in range(3)])
        later = await other.book([Booking(("3", 0), "add", 10.0), Booking(("0", 0), "mul", 10.0)])

        assert [*first, *later] == [0, pytest.approx(10, abs=1), pytest.approx(20, abs=1), pytest.approx(30, abs=1), 0]

    async def test_a_message_keeps_the_start_it_has(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.book([Booking(("a", 0), "add", 10.0), Booking(("b", 0), "add", 10.0)])

        (again, c) = await store.book([Booking(("b", 0), "add", 10.0), Booking(("c", 0), "add", 10.0)])

        assert again == pytest.approx(10, abs=1)
        assert c == pytest.approx(20, abs=1)

    async def test_a_start_that_has_come_is_now(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.book([Booking(("a", 0), "add", 0.2), Booking(("b", 0), "add", 0.2)])
        await results.pass_time(0.22)

        assert list(await store.book([Booking(("b", 0), "add", 0.2)])) == [0]

    async def test_a_start_that_passed_long_ago_is_booked_again(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.book([Booking((name, 0), "add", 0.05) for name in "abcd"])
        await results.pass_time(0.05 * 3 + BOOKING_GRACE + 0.05)

        waits = await store.book([Booking((name, 0), "add", 0.05) for name in "bcd"])

        assert list(waits) == [0, pytest.approx(0.05, abs=0.02), pytest.approx(0.1, abs=0.02)]

    async def test_no_bookings_are_no_starts(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.book([])) == []


class StoreContract(RecordContract, PushContract, RevocationContract, ClaimContract, JoinContract, BookingContract):
    """All that every store keeps."""
