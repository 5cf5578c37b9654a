"""Every ledger and every commit keeps periodic tasks as the contract says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from aiotq.results import ScheduleChange, ScheduleRow
from aiotq.testing.contracts.harness import Kept

from ..servers import shared
from .harness import RedisKeptHarness
from .schedule_contract import (
    APP,
    KeyCommitContract,
    KeyContract,
    OrderedScheduleContract,
    ScheduleContract,
    ScheduledCommitContract,
    added,
)


class TestSchedules(ScheduleContract):
    pass


class TestScheduledCommit(ScheduledCommitContract):
    pass


class TestKeys(KeyContract):
    pass


class TestKeysInACommit(KeyCommitContract):
    pass


class TestOrderedSchedules(OrderedScheduleContract):
    pass


class TestForeignRowsInRedis:
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[RedisKeptHarness]:
        async with RedisKeptHarness() as harness:
            yield harness

    @pytest.mark.parametrize("junk", [b"", b"junk", b"\x93\x01\x02\x03", b"\xc1", b"\x90"])
    async def test_a_row_that_is_none_of_ours_is_shown_so_and_can_be_removed(
        self, harness: RedisKeptHarness, junk: bytes
    ) -> None:
        store, _ = await harness.connect()
        await store.ledger.change_schedules([added("b")])
        with closing(shared("redis").client()) as client:
            client.hset(f"{harness.address.base}:schedules:{APP}", "a", junk)

        rows = {row.name: row for row in await store.ledger.schedules(APP)}

        assert rows["a"] == ScheduleRow("a", "?", b"")
        assert rows["b"].body == b"body"
        assert list(await store.ledger.change_schedules([ScheduleChange(APP, "a", "?", "")])) == [True]
        assert [row.name for row in await store.ledger.schedules(APP)] == ["b"]


async def test_the_time_of_a_redis_is_its_own(tmp_path: Path) -> None:
    async with RedisKeptHarness() as harness:
        store: Kept = (await harness.connect())[0]

        first, second = await store.ledger.time(), await store.ledger.time()

        assert 1.7e9 < first <= second
