"""The contract of a results store as tests: subclass these in a test module whose fixtures give a harness."""

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
    ResultStore,
    Suspected,
)
from aiotq.results.base import BOOKING_GRACE
from aiotq.states import FAILURE, REVOKED, STARTED, SUCCESS
from aiotq.wire.message import Envelope, Message

from ..waiting import wait_until
from .harness import Pushes, StoreHarness, envelope
from .seat_contract import SeatContract

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


async def close(store: ResultStore, closing: Closing, holder: str = "me") -> tuple[Envelope, ...] | None:
    (answer,) = await store.close([closing], holder)
    return answer


_runs = itertools.count()


async def run(store: ResultStore, joining: JoinChanges, record: Record | None = None) -> list[str]:
    """Close a run under a claim of its own; return the ids of what is to be sent."""
    key = (f"run-{next(_runs)}", 0)
    await store.claim([key], "me", 100.0)
    answer = await close(store, Closing(key, record, joining=joining))
    assert answer is not None
    return [each.message.id for each in answer]


async def arrive(store: ResultStore, member: object, *, failed: bool = False, join_id: str = "join") -> list[str]:
    """Run a member to its end; return the ids of what is to be sent."""
    arrival = Arrival(join_id, f"{member}", failed=failed)
    return await run(store, JoinChanges(arrivals=(arrival,)), member_record(member, failed=failed))


#: What a join told about, its members and whether it failed.
Over = tuple[str, dict[str, Record], bool]


def over(about: str, members: dict[str, Record], *, failed: bool = False) -> Over:
    return about, members, failed


async def joined(store: ResultStore, join_id: str = "join") -> Over | None:
    (found,) = await store.joined([join_id])
    return over(found.about, dict(found.members), failed=found.failed) if found is not None else None


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

    async def test_whether_anything_is_revoked_is_known(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        assert not await worker.has_revocations()

        await store.revoke(["a"], terminate=False, expires=results.now() + 1000)

        assert await worker.has_revocations()

    async def test_what_is_not_revoked_any_more_may_run(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        worker, _ = await results.connect()
        await store.revoke(["a", "b"], terminate=False, expires=results.now() + 1000)

        await store.unrevoke(["a", "c"])
        await store.unrevoke([])

        assert set(await worker.revoked(["a", "b"])) == {"b"}

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

        assert list(await other.claim([KEY], "other", 100.0)) == [Claimed(1)]

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

    async def died_with(self, results: StoreHarness, store: ResultStore, *holders: str) -> None:
        """Let each of `holders` claim the message and not renew it."""
        for holder in holders:
            await store.claim([KEY], holder, 0.1)
            await results.pass_time(0.15)

    async def test_a_claim_counts_the_holders_that_died_with_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await self.died_with(results, store, "first", "second")

        assert list(await other.claim([KEY], "third", 100.0)) == [Claimed(2)]
        assert list(await other.claim([KEY], "third", 100.0)) == [Claimed(2)]

    async def test_a_claim_that_was_given_up_has_killed_nobody_and_remembers_who_died(
        self, results: StoreHarness
    ) -> None:
        store, _ = await results.connect()
        await self.died_with(results, store, "first")
        await store.claim([KEY], "second", 100.0)

        await store.close([Closing(KEY, is_done=False)], "second")

        assert list(await store.claim([KEY], "third", 100.0)) == [Claimed(1)]

    async def test_a_holder_that_comes_back_takes_back_its_death(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await self.died_with(results, store, "sleeper")
        await store.claim([KEY], "second", 100.0)

        assert set(await asyncio.to_thread(store.renew_claims, [KEY], "sleeper", 100.0)) == {KEY}

        assert list(await store.claim([KEY], "second", 100.0)) == [Claimed(0)]
        await store.close([Closing(KEY, is_done=False)], "second")
        assert list(await store.claim([KEY], "third", 100.0)) == [Claimed(0)]

    async def test_no_more_suspects_are_claimed_than_there_is_room_for(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        suspects = [("a", 0), ("b", 0)]
        for holder in ("first", "second"):
            await store.claim(suspects, holder, 0.1)
            await results.pass_time(0.15)
        keys = [*suspects, ("normal", 0)]

        assert list(await store.claim(keys, "me", 100.0, Caution(2, 0))) == [Suspected(2), Suspected(2), Claimed()]
        assert list(await store.claim(keys, "me", 100.0, Caution(2, 1))) == [Claimed(2), Suspected(2), Claimed()]
        assert list(await store.claim(keys, "me", 100.0, Caution(3, 0))) == [Claimed(2), Claimed(2), Claimed()]

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
        await store.open_joins([join(1), join(1, join_id="grown"), join(1, join_id="read", then=("x", "y"))])
        await arrive(store, 0, join_id="read")
        await store.claim([KEY], "me", 100.0)
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

    async def test_records_of_others_are_stored_with_the_end_of_a_run(self, results: StoreHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()
        await worker.put([record(results, "over")])
        await worker.claim([KEY], "me", 100.0)
        names = ("never", "over", "a")
        further = tuple(record(results, name, FAILURE, reply_to=caller.address) for name in names)

        await close(worker, Closing(KEY, record(results), further=further))

        assert [each and each.state for each in await caller.get(names)] == [FAILURE, SUCCESS, SUCCESS]
        await heard.arrived(("never", FAILURE))

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
        await store.open_joins([join(3)])

        answers = [await arrive(store, member) for member in order]

        assert answers == [[], [], ["then"]]
        assert await arrive(store, 0) == []

    async def test_a_join_that_is_over_tells_how_its_members_ended(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.open_joins([join(2, about="what for: ä"), join(1, join_id="open")])
        began = results.now()
        uneven = Record("task", SUCCESS, bytes(range(256)), "application/x", 4e9 + 0.5, "somebody")

        assert await joined(other) is None
        await arrive(store, 0)
        assert await joined(other) is None
        await run(store, JoinChanges(arrivals=(Arrival("join", "+uuid"),)), uneven)

        assert await joined(other) == over("what for: ä", {"0": member_record(0), "+uuid": uneven})
        still_open, known, unknown = await other.joined(["open", "join", "unheard-of"])
        assert (still_open, unknown) == (None, None)
        assert known is not None
        assert began - 0.01 <= known.ended_at <= results.now() + 0.01
        assert list(await other.joined([])) == []

    async def test_arriving_twice_is_arriving_once_and_the_first_time_counts(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2)])

        assert await arrive(store, 0) == []
        assert await arrive(store, 0) == []
        assert await arrive(store, 0, failed=True) == []
        assert await run(store, JoinChanges(arrivals=(Arrival("join", "0"),)), member_record(0, b"other")) == []
        assert await arrive(store, 1) == ["then"]

        assert await joined(store) == over("", {"0": member_record(0), "1": member_record(1)})

    async def test_arriving_twice_in_one_step_is_arriving_once(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2)])
        twice = (Arrival("join", "0"), Arrival("join", "0", member_record("other"), failed=True))

        assert await run(store, JoinChanges(arrivals=twice), member_record(0)) == []
        assert await run(store, JoinChanges(arrivals=(Arrival("join", "1"), *twice)), member_record(1)) == ["then"]

        assert await joined(store) == over("", {"0": member_record(0), "1": member_record(1)})

    async def test_the_first_failure_ends_it_and_later_arrivals_change_nothing(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(4, about="x")])

        assert await arrive(store, 0) == []
        assert await arrive(store, 1, failed=True) == ["then"]
        assert await arrive(store, 2, failed=True) == []
        assert [await arrive(store, member) for member in (1, 2, 3)] == [[], [], []]

        assert await joined(store) == over("x", {"1": member_record(1, failed=True)}, failed=True)

    async def test_of_the_arrivals_of_one_step_those_before_the_end_count(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(3), join(1, join_id="one")])
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

    async def test_a_complete_join_does_not_fail_any_more(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1)])

        assert await arrive(store, 0) == ["then"]
        assert await arrive(store, 0, failed=True) == []
        assert await arrive(store, 1, failed=True) == []

        assert await joined(store) == over("", {"0": member_record(0)})

    async def test_opening_a_join_again_does_not_forget_who_arrived(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2)])
        assert await arrive(store, 0) == []

        await store.open_joins([join(2)])

        assert await arrive(store, 1) == ["then"]
        await store.open_joins([join(2)])
        assert [await arrive(store, member) for member in range(2)] == [[], []]

    async def test_a_step_opens_then_grows_then_arrives_then_lets_go(self, results: StoreHarness) -> None:
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

    async def test_an_arrival_may_bring_a_record_of_its_own(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(3)])
        own, of_the_run = member_record("own"), member_record("run")
        arrivals = (Arrival("join", "0", own), Arrival("join", "1"), Arrival("join", "2", of_the_run))

        await run(store, JoinChanges(arrivals=arrivals), of_the_run)

        assert await joined(store) == over("", {"0": own, "1": of_the_run, "2": of_the_run})
        assert [each and each.id for each in await store.get([own.id, of_the_run.id])] == [None, of_the_run.id]

    async def test_an_arrival_without_a_record_is_refused_before_anything_is_done(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1)])
        await store.claim([KEY, ("b", 0)], "me", 100.0)
        closings = [
            Closing(KEY, record(results)),
            Closing(("b", 0), joining=JoinChanges(arrivals=(Arrival("join", "0"),))),
        ]

        with pytest.raises(ValueError, match="member '0' arrives at join join without a record"):
            await store.close(closings, "me")

        assert list(await store.get(["a"])) == [None]
        assert await arrive(store, 0) == ["then"]

    @pytest.mark.parametrize("size", [0, -1])
    async def test_a_join_of_nobody_is_refused(self, results: StoreHarness, size: int) -> None:
        store, _ = await results.connect()
        await store.claim([KEY], "me", 100.0)

        with pytest.raises(ValueError, match=f"join join has the size {size}"):
            await store.open_joins([join(1, join_id="other"), join(size)])
        with pytest.raises(ValueError, match=f"join join has the size {size}"):
            await close(store, Closing(KEY, joining=JoinChanges(opened=(join(size),))))

        assert await arrive(store, 0, join_id="other") == []

    async def test_a_join_that_is_to_shrink_is_refused(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2)])

        with pytest.raises(ValueError, match="join join can't grow by -1"):
            await run(store, JoinChanges(grown=(JoinGrowth("join", -1),)))

        assert await arrive(store, 0) == []

    async def test_a_grown_join_waits_for_more(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1)])

        assert await run(store, JoinChanges(grown=(JoinGrowth("join", 1), JoinGrowth("join", 1)))) == []

        assert [await arrive(store, member) for member in ("0", "+x", "+y")] == [[], [], ["then"]]

    async def test_what_is_done_at_a_join_that_is_over_or_unknown_is_nothing(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1)])
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

    async def test_a_join_is_kept_until_each_of_its_readers_let_go(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1, then=("a", "b", "c"))])
        await run(store, JoinChanges(released=("join",)))  # it is open, and so nobody can have read it
        assert await arrive(store, 0) == ["a", "b", "c"]

        for _ in range(3):
            assert await joined(store) is not None
            await run(store, JoinChanges(released=("join",)))

        assert await joined(store) is None
        await run(store, JoinChanges(released=("join",)))
        assert await arrive(store, 1) == []
        await store.open_joins([join(1)])
        assert await arrive(store, 0) == ["then"]

    async def test_a_failed_join_is_let_go_as_well(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2)])
        await arrive(store, 0)
        await arrive(store, 1, failed=True)

        await run(store, JoinChanges(released=("join",)))

        assert await joined(store) is None

    async def test_a_join_that_is_never_let_go_is_forgotten_its_patience_after_it_ended(
        self, results: StoreHarness
    ) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1, patience=0.3), join(1, join_id="longer")])
        await results.pass_time(0.2)
        await arrive(store, 0)
        await arrive(store, 0, join_id="longer")
        await results.pass_time(0.2)
        assert await joined(store) is not None

        await results.pass_time(0.2)

        assert await joined(store) is None
        assert await joined(store, "longer") is not None

    async def test_what_a_join_sends_is_what_it_was_given(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        message = Message("then", "proj.body", bytes(range(256)), reply_to="caller", attempt=1, headers={"x": [1]})
        then = (Envelope(message, "bodies", 9, results.now() + 50), envelope("second"))
        await store.open_joins([Join("join", 1, then, 100.0)])
        await store.claim([KEY], "me", 100.0)
        joining = JoinChanges(arrivals=(Arrival("join", "0"),))

        assert await close(store, Closing(KEY, member_record(0), joining=joining)) == then

    async def test_a_thousand_concurrent_arrivals_send_then_once(self, results: StoreHarness) -> None:
        stores = [(await results.connect())[0] for _ in range(2)]
        await stores[0].open_joins([join(1000)])
        members = list(range(1000))
        random.Random(7).shuffle(members)

        async def arrive_together(store: ResultStore, members: list[int]) -> list[str]:
            keys = [(f"member-{member}", 0) for member in members]
            await store.claim(keys, f"holder-{store.address}", 100.0)
            closings = [
                Closing(key, member_record(member), joining=JoinChanges(arrivals=(Arrival("join", f"{member}"),)))
                for key, member in zip(keys, members, strict=True)
            ]
            answers = await store.close(closings, f"holder-{store.address}")
            return [each.message.id for answer in answers for each in answer or ()]

        sent = await asyncio.gather(*(arrive_together(stores[n % 2], members[n * 20 : n * 20 + 20]) for n in range(50)))

        assert [task_id for each in sent for task_id in each] == ["then"]
        found = await joined(stores[1])
        assert found is not None
        assert found[1] == {f"{member}": member_record(member) for member in members}

    async def test_a_join_of_ten_thousand_is_read_and_let_go(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(10_000)])
        arrivals = tuple(Arrival("join", f"{n}", member_record(n)) for n in range(10_000))
        assert await run(store, JoinChanges(arrivals=arrivals)) == ["then"]

        found = await joined(store)

        assert found is not None
        assert found[1] == {arrival.member: arrival.record for arrival in arrivals}
        await run(store, JoinChanges(released=("join",)))
        assert await joined(store) is None


class OverdueContract:
    """Joins at which nobody arrives (P3, P7)."""

    async def test_a_join_at_which_nobody_arrives_is_overdue_after_its_patience(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.open_joins([join(2, patience=0.2), join(1, join_id="patient")])
        assert list(await other.overdue()) == []

        await results.pass_time(0.25)

        assert list(await store.overdue()) == ["join"]
        assert list(await other.overdue()) == ["join"]

    async def test_an_overdue_join_is_open_until_an_arrival_fails_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2, patience=0.2)])
        await results.pass_time(0.25)
        assert list(await store.overdue()) == ["join"]

        assert await arrive(store, "-", failed=True) == ["then"]

        assert list(await store.overdue()) == []
        assert await arrive(store, "-", failed=True) == []

    async def test_what_is_over_is_not_overdue(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(1, join_id=name, patience=0.2) for name in ("complete", "failed", "released")])
        await arrive(store, 0, join_id="complete")
        await arrive(store, 0, failed=True, join_id="failed")
        await arrive(store, 0, join_id="released")
        await run(store, JoinChanges(released=("released",)))

        await results.pass_time(0.25)

        assert list(await store.overdue()) == []

    async def test_every_arrival_begins_its_patience_anew(self, results: StoreHarness) -> None:
        """Whether anybody looks for overdue joins meanwhile or not."""
        store, _ = await results.connect()
        await store.open_joins([join(7, patience=0.4), join(7, join_id="unseen", patience=0.4)])
        for member in range(5):
            await results.pass_time(0.25)
            await arrive(store, member)
            await arrive(store, member, join_id="unseen")
            if member < 2:
                assert list(await store.overdue()) == []

        assert list(await store.overdue()) == []
        await arrive(store, 5)
        assert await arrive(store, 6) == ["then"]
        await results.pass_time(0.45)
        assert list(await store.overdue()) == ["unseen"]

    async def test_arriving_twice_does_not_begin_it_anew(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2, patience=0.3)])
        await arrive(store, 0)
        await results.pass_time(0.2)
        await arrive(store, 0)

        await results.pass_time(0.15)

        assert list(await store.overdue()) == ["join"]

    async def test_patience_begins_when_members_can_arrive(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        until = results.now() + 1.2
        await store.open_joins([join(2, patience=0.6, until=until), join(2, join_id="extended", patience=0.6)])
        extended = JoinExtension("extended", until), JoinExtension("extended", results.now() - 100)
        await run(store, JoinChanges(extended=extended))

        await results.pass_time(0.9)
        assert list(await store.overdue()) == []
        assert await arrive(store, 0) == []
        assert await arrive(store, 0, join_id="extended") == []
        await results.pass_time(0.6)
        assert list(await store.overdue()) == []

        await results.pass_time(0.6)
        assert sorted(await store.overdue()) == ["extended", "join"]

    async def test_no_more_than_asked_for_are_returned_and_none_is_hidden_behind_others(
        self, results: StoreHarness
    ) -> None:
        store, _ = await results.connect()
        await store.open_joins([join(2, join_id=f"alive-{n}", patience=0.2) for n in range(150)])
        await store.open_joins([join(2, join_id=f"{n}", patience=0.2) for n in range(30)])
        await results.pass_time(0.1)
        arrivals = tuple(Arrival(f"alive-{n}", "0", member_record(n)) for n in range(150))
        await run(store, JoinChanges(arrivals=arrivals))
        await results.pass_time(0.12)

        assert len(await store.overdue(7)) == 7
        assert len(await store.overdue(0)) == 0

        found: set[str] = set()
        while more := await store.overdue(12):
            for name in more:
                assert await arrive(store, "-", failed=True, join_id=name) == ["then"]
            found.update(name for name in more if not name.startswith("alive"))
        assert found == {f"{n}" for n in range(30)}


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


class StoreContract(
    RecordContract,
    PushContract,
    RevocationContract,
    ClaimContract,
    JoinContract,
    OverdueContract,
    BookingContract,
    SeatContract,
):
    """All that every store keeps."""
