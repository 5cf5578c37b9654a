"""The contract of a record store as tests; the fixture `results` gives them a harness."""

from __future__ import annotations

import asyncio

from ...results import Record
from ...states import FAILURE, REVOKED, STARTED, SUCCESS
from .harness import KeptHarness, Pushes


def record(
    harness: KeptHarness,
    task_id: str = "a",
    state: str = SUCCESS,
    *,
    body: bytes = b"4",
    reply_to: str | None = None,
    lasts: float = 1000.0,
) -> Record:
    """Return a record that expires `lasts` seconds from now."""
    return Record(task_id, state, body, "application/json", harness.now() + lasts, reply_to)


class RecordContract:
    """Outcomes."""

    async def test_an_unknown_id_has_no_record(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.records.get(["unheard-of"])) == [None]
        assert list(await store.records.get([])) == []

    async def test_a_record_is_read_as_it_was_written(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        written = Record("a", "PROGRESS", bytes(range(256)), "application/x", results.now() + 1000, "somebody")

        await store.records.put([written])

        assert list(await other.records.get(["b", "a", "a"])) == [None, written, written]
        assert list(await other.records.states(["b", "a", "a"])) == [None, "PROGRESS", "PROGRESS"]
        assert list(await other.records.states([])) == []

    async def test_the_newest_state_is_what_is_read(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        for state in (STARTED, "PROGRESS", SUCCESS):
            await store.records.put([record(results, state=state)])
            (found,) = await store.records.get(["a"])
            assert found is not None
            assert found.state == state

    async def test_a_terminal_state_stays(self, results: KeptHarness) -> None:
        store, pushes = await results.connect()
        address = store.records.address
        cases = [(end, later) for end in (SUCCESS, FAILURE, REVOKED) for later in (STARTED, SUCCESS, FAILURE)]
        firsts = [record(results, f"{end}-{later}", end, body=b"first", reply_to=address) for end, later in cases]
        await store.records.put(firsts)
        await pushes.arrived(*((each.id, each.state) for each in firsts))

        for each, (_, later) in zip(firsts, cases, strict=True):
            await store.records.put([record(results, each.id, later, body=b"second", reply_to=address)])

        assert list(await store.records.get([each.id for each in firsts])) == firsts
        assert b"second" not in [each.body for each in pushes.records]

    async def test_a_record_expires(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.records.put([record(results, lasts=0.1), record(results, "b")])

        await results.pass_time(0.15)

        (gone, kept) = await store.records.get(["a", "b"])
        assert gone is None
        assert kept is not None
        await store.records.put([record(results, state=STARTED)])
        (found,) = await store.records.get(["a"])
        assert found is not None
        assert found.state == STARTED


class PushContract:
    """Who hears of a record."""

    async def test_a_record_reaches_the_process_it_replies_to_and_no_other(self, results: KeptHarness) -> None:
        caller, heard = await results.connect()
        bystander, overheard = await results.connect()
        worker, _ = await results.connect()
        assert len({each.records.address for each in (caller, bystander, worker)}) == 3

        await worker.records.put([record(results, state=STARTED, reply_to=caller.records.address)])
        await heard.arrived(("a", STARTED))
        await worker.records.put([record(results, reply_to=caller.records.address)])
        await heard.arrived(("a", SUCCESS))

        await worker.records.put([record(results, "b", reply_to=bystander.records.address)])
        await overheard.arrived(("b", SUCCESS))
        assert {each.id for each in overheard.records} == {"b"}
        assert {each.id for each in heard.records} == {"a"}

    async def test_a_pushed_record_is_the_whole_record(self, results: KeptHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()
        written = record(results, body=bytes(range(256)) * 100, reply_to=caller.records.address)

        await worker.records.put([written])

        await heard.arrived(("a", SUCCESS))
        assert heard.records[-1] == written

    async def test_many_records_at_once_all_arrive(self, results: KeptHarness) -> None:
        caller, heard = await results.connect()
        worker, _ = await results.connect()

        await worker.records.put([record(results, f"{n}", reply_to=caller.records.address) for n in range(500)])

        await heard.arrived(*((f"{n}", SUCCESS) for n in range(500)))

    async def test_a_store_that_was_left_hears_nothing(self, results: KeptHarness) -> None:
        worker, _ = await results.connect()
        async with results.connected() as gone:
            heard = Pushes(gone)
            await gone.records.watch("a")

        await worker.records.put([record(results, "a", reply_to=gone.records.address)])
        await results.pass_time(0.02)

        assert not heard.records


class WatchContract:
    """Who hears of a record that another process asked for."""

    async def test_a_watched_record_reaches_whoever_watches(self, results: KeptHarness) -> None:
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        await watcher.records.watch("a")

        await worker.records.put([record(results, "b"), record(results, "a", reply_to="somebody who is gone")])

        await heard.arrived(("a", SUCCESS))
        assert {each.id for each in heard.records} == {"a"}

    async def test_who_begins_to_watch_hears_nothing_of_the_past(self, results: KeptHarness) -> None:
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        told = "somebody else"
        for step in range(3):
            await worker.records.put([record(results, "a", "PROGRESS", body=b"%d" % step, reply_to=told)])

        watcher.records.listening = True
        await watcher.records.watch("a")
        await worker.records.put([record(results, "a", "PROGRESS", body=b"new", reply_to=told)])
        await worker.records.put([record(results, "a", reply_to=told)])

        await heard.arrived(("a", SUCCESS))
        assert [each.body for each in heard.records if each.state == "PROGRESS"] == [b"new"]

    async def test_after_unwatching_nothing_more_is_heard(self, results: KeptHarness) -> None:
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        await watcher.records.watch("a")
        await watcher.records.watch("b")
        await watcher.records.unwatch("a")
        await watcher.records.unwatch("never watched")

        await worker.records.put([record(results, "a")])
        await worker.records.put([record(results, "b")])

        await heard.arrived(("b", SUCCESS))
        assert {each.id for each in heard.records} == {"b"}

    async def test_no_record_is_missed_between_listening_and_looking(self, results: KeptHarness) -> None:
        """Whoever watches, then looks, knows: it was there to be read, or it will be pushed."""
        watcher, heard = await results.connect()
        worker, _ = await results.connect()
        names = [f"{n}" for n in range(50)]

        async def write() -> None:
            for name in names:
                await worker.records.put([record(results, name)])
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for name in names:
                await watcher.records.watch(name)
                (found,) = await watcher.records.get([name])
                if found is None:
                    await heard.arrived((name, SUCCESS))
