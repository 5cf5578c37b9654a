"""Every ledger keeps its contract; and what is the memory's, the file's and the Redis's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiotq.backends.memory.state import MemoryState
from aiotq.backends.sqlite.joins import purge_joins
from aiotq.backends.sqlite.ledger import SQLiteLedger
from aiotq.results import Arrival, JoinChanges, JoinExtension, Record
from aiotq.results.ledger_table import SWEEP_BATCH
from aiotq.testing.contracts.harness import JumpingClock, Kept, Pushes, in_memory

from ..servers import shared
from .harness import RedisKeptHarness, SQLiteKeptHarness
from .join_contract import arrive, join, joined, member_record, over, run
from .ledger_contract import LedgerContract


class TestLedger(LedgerContract):
    pass


class TestMemoryState:
    async def test_a_record_written_in_another_thread_is_pushed_in_the_loop_that_listens(self) -> None:
        state = MemoryState()

        async def write(address: str) -> None:
            async with in_memory(state) as worker:
                await worker.records.put([Record("a", "SUCCESS", b"", "", 4e9, address)])
                await worker.ledger.revoke(["b"], terminate=True, expires=4e9)

        async with in_memory(state) as caller:
            pushes = Pushes(caller)
            await asyncio.to_thread(asyncio.run, write(caller.records.address))
            await pushes.arrived(("a", "SUCCESS"))
            assert pushes.revoked == ["b"]

    async def test_what_expired_is_removed_by_later_writes(self) -> None:
        clock = JumpingClock()
        state = MemoryState(clock=clock)
        async with in_memory(state) as store:
            await store.records.put([Record(f"{n}", "SUCCESS", b"", "", clock.time() + 100) for n in range(1000)])
            clock.jump(1000)
            enough = range(1000 // SWEEP_BATCH + 1)

            await store.records.put([Record(f"new{n}", "SUCCESS", b"", "", clock.time() + 100) for n in enough])

            assert len(state) == len(enough)

    async def test_a_state_that_changes_often_is_kept_once(self) -> None:
        clock = JumpingClock()
        state = MemoryState(clock=clock)
        async with in_memory(state) as store:
            for n in range(100):
                await store.records.put([Record("a", "PROGRESS", b"%d" % n, "", clock.time() + 100 + n)])
            clock.jump(150)
            await store.records.put([Record("b", "PROGRESS", b"", "", clock.time() + 1000)])
            assert len(state) == 2

            clock.jump(100)
            await store.records.put([Record("c", "PROGRESS", b"", "", clock.time() + 1000)])

            assert len(state) == 2

    async def test_a_join_that_nobody_let_go_is_removed_by_later_writes(self) -> None:
        clock = JumpingClock()
        state = MemoryState(clock=clock)
        async with in_memory(state) as store:
            await store.ledger.open_joins([join(1, patience=100), join(1, join_id="open", patience=100)])
            await arrive(store, 0)
            claims_and_records = 2
            assert len(state) == 2 + claims_and_records
            clock.jump(101)

            await store.records.put([Record("b", "PROGRESS", b"", "", 4e9)])

            assert len(state) == 1 + 1 + claims_and_records
            assert list(await store.ledger.overdue()) == ["open"]


class TestSQLiteJoins:
    async def test_a_join_that_nobody_let_go_is_deleted_after_its_patience_with_its_members(
        self, tmp_path: Path
    ) -> None:
        async with SQLiteKeptHarness(tmp_path) as harness:
            store, _ = await harness.connect()
            assert isinstance(store.ledger, SQLiteLedger)
            database = store.ledger.database
            await store.ledger.open_joins([join(2, join_id=f"over-{n}", patience=10.0) for n in range(5)])
            await store.ledger.open_joins([join(3, join_id="open", patience=10.0)])
            for name in (*(f"over-{n}" for n in range(5)), "open"):
                await arrive(store, 0, join_id=name)
                await arrive(store, 1, join_id=name)
            later = harness.now() + 11

            purged = [await database.write(lambda transaction: purge_joins(transaction, later, 6)) for _ in range(3)]

            assert purged == [True, True, False], "about six rows at a time"
            counts = await database.read(
                lambda connection: connection.execute(
                    "SELECT (SELECT count(*) FROM joins), (SELECT count(*) FROM arrivals)"
                ).fetchone()
            )
            assert counts == (1, 2)
            assert await arrive(store, 2, join_id="open") == ["then"]


class RedisKeys:
    """The keys of a test's store, seen from outside."""

    def __init__(self, client: Any, base: str) -> None:
        self.client = client
        self.base = base

    def key(self, name: str) -> str:
        return f"{self.base}:{name}"

    def of_joins(self) -> dict[str, float]:
        """Seconds that each has left; -1: it never expires."""
        names = [name.decode() for name in self.client.keys(f"{self.base}:join*")]
        left = {name.removeprefix(f"{self.base}:"): self.client.pttl(name) for name in names}
        return {name: ms / 1000 if ms >= 0 else -1 for name, ms in left.items()}


class TestRedisJoins:
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[RedisKeptHarness]:
        async with RedisKeptHarness() as harness:
            yield harness

    @pytest.fixture
    async def store(self, harness: RedisKeptHarness) -> Kept:
        store, _ = await harness.connect()
        return store

    @pytest.fixture
    async def keys(self, harness: RedisKeptHarness) -> AsyncIterator[RedisKeys]:
        with closing(shared("redis").client()) as client:
            yield RedisKeys(client, harness.address.base)

    async def test_all_keys_outlive_the_deadline_by_the_patience_and_no_key_stays(
        self, harness: RedisKeptHarness, store: Kept, keys: RedisKeys
    ) -> None:
        await store.ledger.open_joins([join(2, patience=50.0)])
        assert set(keys.of_joins()) == {"join:join", "joins"}
        assert all(100 <= left <= 150 for left in keys.of_joins().values())
        await arrive(store, 0)
        assert set(keys.of_joins()) == {"join:join", "join:join:in", "joins"}
        assert all(100 <= left <= 150 for left in keys.of_joins().values())

        await run(store, JoinChanges(extended=(JoinExtension("join", harness.now() + 1000),)))
        assert all(1100 <= left <= 1150 for left in keys.of_joins().values())

        assert await arrive(store, 1) == ["then"]
        assert set(keys.of_joins()) == {"join:join", "join:join:in"}
        assert all(0 <= left <= 50 for left in keys.of_joins().values())

        await run(store, JoinChanges(released=("join",)))
        assert keys.of_joins() == {}

    async def test_a_short_join_does_not_end_the_index_of_a_long_one(self, store: Kept, keys: RedisKeys) -> None:
        await store.ledger.open_joins([join(2, join_id="long", patience=1000.0), join(2, patience=1.0)])

        assert keys.of_joins()["joins"] > 1000

    async def test_what_is_gone_leaves_the_index(self, store: Kept, keys: RedisKeys) -> None:
        await store.ledger.open_joins([join(2, join_id=name, patience=0.3) for name in ("evicted", "foreign", "kept")])
        keys.client.delete(keys.key("join:evicted"))
        keys.client.delete(keys.key("join:foreign"))
        keys.client.rpush(keys.key("join:foreign"), "something else")
        await asyncio.sleep(0.35)

        assert list(await store.ledger.overdue()) == ["kept"]

        assert keys.client.zrange(keys.key("joins"), 0, -1) == [b"kept"]

    @pytest.mark.parametrize("name", ["join:join", "join:join:in", "joins"])
    async def test_a_key_of_another_type_leaves_no_half_of_a_step(
        self, store: Kept, keys: RedisKeys, name: str
    ) -> None:
        await store.ledger.open_joins([join(2), join(1, join_id="other", then=("other",))])
        keys.client.delete(keys.key(name))
        keys.client.set(keys.key(name), "something else")
        joining = JoinChanges(
            opened=(join(1, join_id="new", then=("new",)),),
            arrivals=tuple(Arrival(join_id, "0") for join_id in ("join", "new", "other")),
            extended=(JoinExtension("join", 4e9),),
            released=("join", "other"),
        )

        assert await run(store, joining, member_record("a")) == ["new", "other"]

        assert list(await store.records.get(["task-a"])) == [member_record("a")]
        assert list(await store.ledger.overdue()) == []
        assert await joined(store, "join") is None

    async def test_a_join_whose_members_were_overwritten_can_be_failed(self, store: Kept, keys: RedisKeys) -> None:
        await store.ledger.open_joins([join(2)])
        keys.client.set(keys.key("join:join:in"), "something else")

        assert await arrive(store, 0, failed=True) == ["then"]

        assert await joined(store) == over("", {"0": member_record(0, failed=True)}, failed=True)

    async def test_a_join_of_foreign_fields_leaves_no_half_of_a_step(self, store: Kept, keys: RedisKeys) -> None:
        keys.client.hset(keys.key("join:join"), mapping={"open": 1, "size": "x", "then": "y", "until": "z"})
        extension = JoinExtension("join", 4e9)

        assert await run(store, JoinChanges(extended=(extension,)), member_record("a")) == []
        assert await arrive(store, 0) == []

        assert list(await store.records.get(["task-a", "task-0"])) == [member_record("a"), member_record(0)]

    async def test_a_member_that_can_not_be_read_is_left_out_and_told(
        self, store: Kept, keys: RedisKeys, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.ledger.open_joins([join(2)])
        await arrive(store, 0)
        keys.client.hset(keys.key("join:join:in"), "junk", "something else")
        await arrive(store, 1)

        assert await joined(store) == over("", {"0": member_record(0), "1": member_record(1)})

        assert "the record of its member b'junk' can't be read" in caplog.text
