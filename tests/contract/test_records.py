"""Every record store keeps its contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import RECORDS
from .harness import KeptHarness
from .record_contract import PushContract, RecordContract, WatchContract


class TestRecords(RecordContract, PushContract):
    @pytest.fixture(params=RECORDS)
    async def results(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeptHarness]:
        async with RECORDS[request.param](tmp_path) as harness:
            yield harness


class TestWatching(WatchContract):
    pass
