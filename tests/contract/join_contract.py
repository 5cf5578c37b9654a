"""The contract of a ledger's joins as tests: arrivals, growth, ends, and joins at which nobody arrives."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from aiotq.results import (
    Arrival,
    Closing,
    Join,
    JoinChanges,
    JoinExtension,
    JoinGrowth,
    Record,
)
from aiotq.states import FAILURE, SUCCESS
from aiotq.testing.contracts.broker_harness import envelope
from aiotq.testing.contracts.harness import Kept, KeptHarness
from aiotq.testing.contracts.records import record
from aiotq.wire.message import Envelope, Message

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
        before = results.now()
        await arrive(store, 0)
        await arrive(store, 0, join_id="longer")
        await results.pass_time(0.2)
        is_there = await joined(store) is not None
        assert is_there or results.now() >= before + 0.3  # a machine may have been slower than that

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
        await store.ledger.open_joins([join(2, join_id=f"alive-{n}", patience=0.4) for n in range(150)])
        await store.ledger.open_joins([join(2, join_id=f"{n}", patience=0.4) for n in range(30)])
        await results.pass_time(0.2)
        arrivals = tuple(Arrival(f"alive-{n}", "0", member_record(n)) for n in range(150))
        await run(store, JoinChanges(arrivals=arrivals))
        await results.pass_time(0.22)

        assert len(await store.ledger.overdue(7)) == 7
        assert len(await store.ledger.overdue(0)) == 0

        found: set[str] = set()
        while more := await store.ledger.overdue(12):
            for name in more:
                assert await arrive(store, "-", failed=True, join_id=name) == ["then"]
            found.update(name for name in more if not name.startswith("alive"))
        assert found == {f"{n}" for n in range(30)}
