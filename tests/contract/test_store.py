"""Every results store keeps its contract; and what is the memory store's own."""

from __future__ import annotations

import asyncio

from aiotq.results import Record
from aiotq.results.memory import SWEEP_BATCH, MemoryRecords, MemoryStore

from .harness import JumpingClock, Pushes
from .store_contract import StoreContract


class TestStore(StoreContract):
    pass


class TestMemoryRecords:
    async def test_a_record_written_in_another_thread_is_pushed_in_the_loop_that_listens(self) -> None:
        records = MemoryRecords()
        caller = MemoryStore(records)
        pushes = Pushes(caller)

        async def write() -> None:
            async with MemoryStore(records) as worker:
                await worker.put([Record("a", "SUCCESS", b"", "", 4e9, caller.address)])
                await worker.revoke(["b"], terminate=True, expires=4e9)

        async with caller:
            await asyncio.to_thread(asyncio.run, write())
            await pushes.arrived(("a", "SUCCESS"))
            assert pushes.revoked == ["b"]

    async def test_what_expired_is_removed_by_later_writes(self) -> None:
        clock = JumpingClock()
        records = MemoryRecords(clock=clock)
        store = MemoryStore(records)
        await store.put([Record(f"{n}", "SUCCESS", b"", "", clock.time() + 100) for n in range(1000)])
        clock.jump(1000)

        await store.put(
            [Record(f"new{n}", "SUCCESS", b"", "", clock.time() + 100) for n in range(1000 // SWEEP_BATCH + 1)]
        )

        assert len(records) == 1000 // SWEEP_BATCH + 1

    async def test_a_state_that_changes_often_is_kept_once(self) -> None:
        clock = JumpingClock()
        records = MemoryRecords(clock=clock)
        store = MemoryStore(records)
        for n in range(100):
            await store.put([Record("a", "PROGRESS", b"%d" % n, "", clock.time() + 100 + n)])
        clock.jump(150)
        await store.put([Record("b", "PROGRESS", b"", "", clock.time() + 1000)])
        assert len(records) == 2

        clock.jump(100)
        await store.put([Record("c", "PROGRESS", b"", "", clock.time() + 1000)])

        assert len(records) == 2
