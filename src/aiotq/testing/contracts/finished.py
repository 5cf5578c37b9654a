"""The contract of the index of what finished, for stores that keep one (`RecordStore.has_index`)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ...core.values import replace
from ...exceptions import InvalidOption
from ...results import Record
from ...results.index import Finished, FinishedPage, FinishedQuery, IndexBounds, IndexEntry
from ...states import FAILURE, IGNORED, RETRY, REVOKED, STARTED, SUCCESS
from .harness import KeptHarness

BOUNDS = IndexBounds()


def ended(
    results: KeptHarness, task_id: str, state: str = FAILURE, *, bounds: IndexBounds = BOUNDS, **said: Any
) -> Record:
    """Return the record of a task that ended now, with what the index is to have of it."""
    about = replace(Finished(task_id, state, "proj.add", results.now(), "q", "w1", "1, y=2", "ValueError: no"), **said)
    return Record(task_id, state, b"4", "application/json", results.now() + 1000, entry=IndexEntry(about, bounds))


def ids(page: FinishedPage) -> list[str]:
    """Return the ids of the tasks on a page."""
    return [each.id for each in page.tasks]


class FinishedContract:
    """What finished is found."""

    async def test_what_finished_is_found_newest_first_and_page_by_page(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        for n in range(7):
            await store.records.put([ended(results, f"a{n}", (FAILURE, SUCCESS, REVOKED, IGNORED)[n % 4])])
            await results.pass_time(0.003)  # those of one millisecond may be in any order
        await store.records.put([ended(results, f"b{n}", (FAILURE, SUCCESS)[n % 2]) for n in range(4)])

        query, pages = FinishedQuery(limit=3), list[list[str]]()
        while True:
            page = await other.records.find(query)
            pages.append(ids(page))
            if page.cursor is None:
                break
            query = replace(query, cursor=page.cursor)

        assert page.counts == {FAILURE: 4, SUCCESS: 4, REVOKED: 2, IGNORED: 1}
        assert [len(each) for each in pages] == [3, 3, 3, 2]
        found = [task_id for each in pages for task_id in each]
        assert set(found[:4]) == {"b0", "b1", "b2", "b3"}
        assert found[4:] == [f"a{n}" for n in reversed(range(7))]
        (first,) = (await other.records.find(FinishedQuery(id_prefix="a0"))).tasks
        assert first.key
        assert replace(first, key="", ended=0.0) == Finished(
            "a0", FAILURE, "proj.add", 0.0, "q", "w1", "1, y=2", "ValueError: no"
        )

    async def test_what_is_searched_for_holds_the_rest_back(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        now = results.now()
        await store.records.put(
            [
                ended(results, "early", ended=now - 500.0, ran=1.5, waited=0.25, retries=2),
                ended(results, "mail", name="proj.mail", queue="mail", error="TimeoutError: Ünterwegs"),
                ended(results, "done", SUCCESS, worker="w2", args="order_id='A-1'", periodic="nightly"),
                ended(results, "step", REVOKED, root_id="root", parent_id="done"),
                ended(results, "tried", RETRY),
            ]
        )

        async def found(**query: Any) -> set[str]:
            return set(ids(await store.records.find(replace(FinishedQuery(), **query))))

        assert await found(states=(FAILURE,)) == {"early", "mail"}
        assert await found(states=(SUCCESS, REVOKED)) == {"done", "step"}
        assert await found(name="proj.mail") == await found(queue="mail") == {"mail"}
        assert await found(worker="w2") == await found(periodic="nightly") == {"done"}
        assert await found(states=(RETRY,)) == {"tried"}
        assert await found(id_prefix="ea") == await found(until=now - 400) == {"early"}
        assert await found(since=now - 400) == {"mail", "done", "step"}
        assert await found(root_id="root") == await found(parent_id="done") == {"step"}
        assert await found(text="ünter") == {"mail"}
        assert await found(text="a-1") == {"done"}
        assert await found(name="proj", text="x") == set()
        (early,) = (await store.records.find(FinishedQuery(id_prefix="early"))).tasks
        assert (early.ran, early.waited, early.retries) == (1.5, 0.25, 2)
        with pytest.raises(InvalidOption, match="STARTED"):
            await store.records.find(FinishedQuery(states=(STARTED,)))
        with pytest.raises(InvalidOption, match="limit"):
            await store.records.find(FinishedQuery(limit=0))

    async def test_an_entry_is_written_if_its_record_is_and_deleted_by_its_key(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.records.put([ended(results, "a", SUCCESS)])
        await store.records.put([ended(results, "a"), replace(ended(results, "b"), entry=None)])
        await results.pass_time(0.003)  # those of one millisecond may be in any order
        await store.records.put([ended(results, "c")])
        await store.records.forget(["a", "b", "c"])

        page = await store.records.find(FinishedQuery())
        assert [(each.id, each.state) for each in page.tasks] == [("c", FAILURE), ("a", SUCCESS)]

        assert await store.records.unlist([page.tasks[0].key, "no key"]) == 1
        assert ids(await store.records.find(FinishedQuery())) == ["a"]
        assert await store.records.unlist([page.tasks[0].key]) == 0

    async def test_each_state_is_bounded_by_count_and_age(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        few, short = IndexBounds(most=300), IndexBounds(seconds=0.2)
        await store.records.put([ended(results, "kept", FAILURE, bounds=few)])
        for start in range(0, 1200, 100):
            await store.records.put([ended(results, f"{start + n}", SUCCESS, bounds=few) for n in range(100)])
        await store.records.put([ended(results, "old", REVOKED, bounds=short)])

        counts = (await store.records.find(FinishedQuery())).counts
        assert counts[FAILURE] == 1
        assert 300 <= counts[SUCCESS] < 1000
        assert ids(await store.records.find(FinishedQuery(limit=2)))[1:] != ["kept"]

        await results.pass_time(0.3)
        async with asyncio.timeout(5.0):
            while (await store.records.find(FinishedQuery(states=(REVOKED,)))).tasks:
                await results.pass_time(0.05)
