"""Every record store keeps its contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotq.exceptions import StoreRequired
from aiotq.results.index import FinishedQuery
from aiotq.testing.contracts import FinishedContract, PushContract, RecordContract, WatchContract
from aiotq.testing.contracts.harness import KeptHarness

from .conftest import LEDGERS, RECORDS


class TestRecords(RecordContract, PushContract):
    @pytest.fixture(params=RECORDS)
    async def results(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeptHarness]:
        async with RECORDS[request.param](tmp_path) as harness:
            yield harness


class TestWatching(WatchContract):
    pass


class TestFinished(FinishedContract):
    @pytest.fixture(params=LEDGERS)
    async def results(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeptHarness]:
        async with LEDGERS[request.param](tmp_path) as harness:
            yield harness


async def test_a_store_that_keeps_no_index_says_so(tmp_path: Path) -> None:
    async with RECORDS["plain"](tmp_path) as harness:
        store, _ = await harness.connect()

        assert not store.records.has_index
        with pytest.raises(StoreRequired, match="can't be searched"):
            await store.records.find(FinishedQuery())
        with pytest.raises(StoreRequired, match="can't be searched"):
            await store.records.unlist(["1"])
