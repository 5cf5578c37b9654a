"""The contract of a ledger's periodic tasks, and of their commit, as tests."""

from __future__ import annotations

import asyncio

import pytest

from aiotq.commit import COMMITTED, LEASE_LOST, Finish
from aiotq.core.values import replace
from aiotq.results import JoinChanges, ScheduleChange, ScheduleRow, key_change
from aiotq.testing.contracts.broker_harness import envelope
from aiotq.testing.contracts.harness import Kept, KeptHarness

from ..waiting import wait_until
from .harness import CommitHarness

APP = "proj"


def added(name: str, mark: str = "1", body: bytes = b"body", *, app: str = APP, tells: bool = True) -> ScheduleChange:
    return ScheduleChange(app, name, "", mark, body, tells=tells)


class ScheduleContract:
    @pytest.fixture
    async def store(self, results: KeptHarness) -> Kept:
        store, _ = await results.connect()
        return store

    async def test_a_row_is_kept_as_it_was_written_with_what_is_unsent(self, store: Kept) -> None:
        change = replace(added("a", body=b"\x00body\n"), unsent=(envelope("one"), envelope("two", due=2e9)))

        assert list(await store.ledger.change_schedules([change])) == [True]

        (row,) = await store.ledger.schedules(APP)
        assert (row.name, row.mark, row.body) == ("a", "1", b"\x00body\n")
        assert [(each.message.id, each.due) for each in row.unsent] == [("one", None), ("two", 2e9)]

    async def test_apps_have_rows_of_their_own(self, store: Kept) -> None:
        await store.ledger.change_schedules([added("a"), added("b"), added("a", "2", app="other")])

        assert {row.name for row in await store.ledger.schedules(APP)} == {"a", "b"}
        assert list(await store.ledger.schedules("other")) == [ScheduleRow("a", "2", b"body")]
        assert list(await store.ledger.schedules("nobody")) == []

    async def test_rows_are_found_by_their_names(self, store: Kept) -> None:
        await store.ledger.change_schedules([added("a"), added("b"), added("ünï code")])

        assert {row.name for row in await store.ledger.schedules(APP, ["ünï code", "b", "none"])} == {"b", "ünï code"}
        assert list(await store.ledger.schedules(APP, [])) == []

    async def test_a_change_of_a_row_that_was_changed_meanwhile_is_refused(self, store: Kept) -> None:
        await store.ledger.change_schedules([added("a")])

        answers = await store.ledger.change_schedules(
            [
                ScheduleChange(APP, "a", "1", "2", b"new"),
                ScheduleChange(APP, "a", "1", "3", b"late"),
                added("a", "4"),
                ScheduleChange(APP, "none", "1", "5"),
            ]
        )

        assert list(answers) == [True, False, False, False]
        assert list(await store.ledger.schedules(APP)) == [ScheduleRow("a", "2", b"new")]

    async def test_of_many_changes_of_one_row_at_once_one_is_done(self, store: Kept) -> None:
        await store.ledger.change_schedules([added("a", "0")])

        answers = await asyncio.gather(
            *(store.ledger.change_schedules([ScheduleChange(APP, "a", "0", f"{n}")]) for n in range(1, 9))
        )

        assert [answer for (answer,) in answers].count(True) == 1

    async def test_a_change_that_is_repeated_has_no_further_effect(self, store: Kept) -> None:
        change = added("a")
        await store.ledger.change_schedules([change])
        revision = await store.ledger.schedules_revision(APP)

        assert list(await store.ledger.change_schedules([change])) == [True]
        assert await store.ledger.schedules_revision(APP) == revision

    async def test_a_change_that_keeps_the_mark_is_written(self, store: Kept) -> None:
        await store.ledger.change_schedules([replace(added("a"), unsent=(envelope("one"),))])

        await store.ledger.change_schedules([ScheduleChange(APP, "a", "1", "1", b"body")])

        assert list(await store.ledger.schedules(APP)) == [ScheduleRow("a", "1", b"body")]

    async def test_a_row_is_removed_and_may_come_again(self, store: Kept) -> None:
        await store.ledger.change_schedules([added("a")])

        removal = ScheduleChange(APP, "a", "1", "", tells=True)
        assert list(await store.ledger.change_schedules([removal])) == [True]
        assert list(await store.ledger.change_schedules([removal])) == [True]
        assert list(await store.ledger.schedules(APP)) == []

        assert list(await store.ledger.change_schedules([added("a", "2")])) == [True]

    async def test_the_revision_grows_with_the_changes_that_tell(self, store: Kept) -> None:
        before = await store.ledger.schedules_revision(APP)
        await store.ledger.change_schedules([added("a", tells=False), added("b", app="other")])
        assert await store.ledger.schedules_revision(APP) == before

        await store.ledger.change_schedules([ScheduleChange(APP, "a", "1", "2", tells=True)])

        assert await store.ledger.schedules_revision(APP) > before


class KeyContract:
    """Rows that are kept for a time: who has the key of a unique call."""

    async def test_a_key_is_whose_it_is_until_it_is_released_or_expires(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        mine, yours = key_change("k", "", "me", 100.0, b"\x00about"), key_change("k", "", "you", 100.0)

        assert list(await store.ledger.change_schedules([mine, yours, mine])) == [True, False, True]
        assert list(await other.ledger.keys(["k", "none"])) == [ScheduleRow("k", "me", b"\x00about")]
        assert list(await store.ledger.schedules("")) == []
        assert list(await other.ledger.change_schedules([key_change("k", "you", "", 0.0)])) == [False]
        assert list(await other.ledger.change_schedules([key_change("k", "me", "", 0.0), yours])) == [True, True]

        assert list(await store.ledger.change_schedules([key_change("k", "you", "us", 0.001)])) == [True]
        await results.pass_time(0.01)
        await wait_until(lambda: is_free(store, "k"), "the key has expired")
        assert list(await store.ledger.change_schedules([key_change("k", "us", "late", 9.0), mine])) == [False, True]

    async def test_of_many_that_want_a_key_at_once_one_gets_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        answers = await asyncio.gather(
            *(store.ledger.change_schedules([key_change("k", "", f"{n}", 100.0)]) for n in range(8))
        )

        assert [answer for (answer,) in answers].count(True) == 1


async def is_free(store: Kept, name: str) -> bool:
    return not await store.ledger.keys([name])


def sending(name: str, seen: str, mark: str, *ids: str) -> Finish:
    return Finish(None, envelopes=tuple(map(envelope, ids)), schedule=ScheduleChange(APP, name, seen, mark, b"next"))


class ScheduledCommitContract:
    """What sends the occurrences of periodic tasks (P9)."""

    async def test_an_occurrence_is_sent_with_the_change_of_its_row(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.ledger.change_schedules([added("a")])

        assert list(await worker.committer.commit([sending("a", "1", "2", "run")])) == [COMMITTED]

        assert [delivery.message.id for delivery in await worker.admitted()] == ["run"]
        assert list(await worker.ledger.schedules(APP)) == [ScheduleRow("a", "2", b"next")]

    async def test_nothing_is_sent_if_the_change_is_refused(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.ledger.change_schedules([added("a", "0"), added("b", "1")])

        answers = await worker.committer.commit(
            [sending("a", "1", "2", "late"), sending("b", "1", "2", "run"), sending("gone", "1", "2", "lost")]
        )

        assert list(answers) == [LEASE_LOST, COMMITTED, LEASE_LOST]
        assert [delivery.message.id for delivery in await worker.admitted()] == ["run"]

    async def test_of_many_that_send_an_occurrence_at_once_one_does(self, pair: CommitHarness) -> None:
        workers = [await pair.worker(f"worker-{n}") for n in range(4)]
        await workers[0].ledger.change_schedules([added("a")])

        answers = await asyncio.gather(
            *(worker.committer.commit([sending("a", "1", f"by-{worker.transport}", "run")]) for worker in workers)
        )

        assert [answer for (answer,) in answers].count(COMMITTED) == 1
        assert len(await workers[0].admitted()) == 1

    async def test_a_commit_that_is_repeated_runs_nothing_twice(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.ledger.change_schedules([added("a")])
        group = [sending("a", "1", "2", "run")]
        await worker.committer.commit(group)

        assert list(await worker.committer.commit(group)) == [COMMITTED]

        (delivery,) = await worker.admitted()
        await worker.committer.commit([Finish(delivery)])
        assert await worker.admitted() == []

    async def test_beside_finishes_of_runs_each_has_its_answer(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.ledger.change_schedules([added("a")])
        await worker.transport.send([envelope("one")])
        (delivery,) = await worker.admitted()

        answers = await worker.committer.commit(
            [sending("a", "0", "2", "late"), Finish(delivery), sending("a", "1", "2", "run")]
        )

        assert list(answers) == [LEASE_LOST, COMMITTED, COMMITTED]
        assert [each.message.id for each in await worker.admitted()] == ["run"]


class KeyCommitContract:
    """What sends a unique call, and what ends it."""

    async def test_a_call_is_sent_with_its_key_or_not_at_all_and_its_end_releases_it(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        first = Finish(None, envelopes=(envelope("one"),), schedule=key_change("k", "", "one", 100.0))
        second = Finish(None, envelopes=(envelope("two"),), schedule=key_change("k", "", "two", 100.0))

        assert list(await worker.committer.commit([first, second])) == [COMMITTED, LEASE_LOST]
        assert list(await worker.committer.commit([first])) == [COMMITTED]
        (delivery,) = await worker.admitted()
        others = key_change("other", "nobody", "", 0.0)
        ending = Finish(delivery, joining=JoinChanges(keys=(key_change("k", "one", "", 0.0), others)))
        assert list(await worker.committer.commit([ending])) == [COMMITTED]

        assert list(await worker.ledger.keys(["k"])) == []
        assert list(await worker.committer.commit([second])) == [COMMITTED]
        assert [each.message.id for each in await worker.admitted()] == ["two"]

    async def test_an_end_that_comes_too_late_leaves_a_key_as_it_is(self, pair: CommitHarness) -> None:
        worker = await pair.worker()
        await worker.transport.send([envelope("one")])
        (delivery,) = await worker.admitted()
        await worker.committer.commit([Finish(delivery)])
        await worker.ledger.change_schedules([key_change("k", "", "one", 100.0)])

        late = Finish(delivery, joining=JoinChanges(keys=(key_change("k", "one", "", 0.0),)))
        await worker.committer.commit([late])

        assert [row.mark for row in await worker.ledger.keys(["k"])] == ["one"]


class OrderedScheduleContract:
    async def test_what_was_accepted_and_not_sent_is_kept_to_be_sent_by_another(
        self, ordered_pair: CommitHarness
    ) -> None:
        """Its scheduler died between the ledger and the broker."""
        worker = await ordered_pair.worker()
        await worker.ledger.change_schedules([replace(added("a"), unsent=(envelope("run"),))])
        (row,) = await worker.ledger.schedules(APP)

        change = ScheduleChange(APP, "a", row.mark, "2", row.body)
        answers = await worker.committer.commit([Finish(None, envelopes=row.unsent, schedule=change)])

        assert list(answers) == [COMMITTED]
        assert [delivery.message.id for delivery in await worker.admitted()] == ["run"]
        assert list(await worker.ledger.schedules(APP)) == [ScheduleRow("a", "2", b"body")]
