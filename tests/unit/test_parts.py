"""Which backend keeps which contract for an app: what that of results can't, that of messages does."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import pytest

from aiotq import AioTQ, chord
from aiotq.backends.base import Backend, BackendContext, backend_class
from aiotq.backends.memory.backend import MemoryBackend
from aiotq.calling import connection as connections
from aiotq.calling.connection import parts_of
from aiotq.core.clock import SYSTEM_CLOCK
from aiotq.core.settings import Settings
from aiotq.exceptions import InvalidSetting
from aiotq.results import Record
from aiotq.results.in_process import LocalLedger
from aiotq.results.pushed import PushedRecords

from ..contract.harness import PlainRecords

KEPT: dict[str, Record] = {}


class PlainBackend(Backend):
    """Records, and nothing else."""

    has_ledger = False

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    def __init__(self, url: str, context: BackendContext) -> None:
        self.records = PlainRecords(KEPT, context.clock)


class BusyBackend(PlainBackend):
    """Records and a broker with a bus, as RabbitMQ has them."""

    def __init__(self, url: str, context: BackendContext) -> None:
        super().__init__(url, context)
        memory = memory_backend()
        self.broker, self.bus = memory.broker, memory.bus


CONTEXT = BackendContext(Settings(), SYSTEM_CLOCK, lambda name, kind, make: make())


def memory_backend() -> MemoryBackend:
    return MemoryBackend("memory://", CONTEXT)


def test_one_backend_keeps_all_that_it_can() -> None:
    memory = memory_backend()

    parts = parts_of(memory, memory, Settings(), SYSTEM_CLOCK)

    assert (parts.broker, parts.records, parts.ledger, parts.bus) == (
        memory.broker,
        memory.records,
        memory.ledger,
        memory.bus,
    )


def test_with_records_alone_ledger_and_bus_are_the_brokers() -> None:
    memory = memory_backend()

    parts = parts_of(memory, PlainBackend("plain://", CONTEXT), Settings(), SYSTEM_CLOCK)

    assert isinstance(parts.records, PushedRecords)
    assert (parts.ledger, parts.bus) == (memory.ledger, memory.bus)


def test_where_nobody_has_a_ledger_it_is_this_processs_own() -> None:
    backend = BusyBackend("busy://", CONTEXT)

    parts = parts_of(backend, backend, Settings(), SYSTEM_CLOCK)

    assert isinstance(parts.ledger, LocalLedger)
    assert not parts.ledger.has_joins


def test_what_keeps_only_records_is_no_broker() -> None:
    plain = PlainBackend("plain://", CONTEXT)

    with pytest.raises(InvalidSetting, match="this one keeps results only"):
        parts_of(plain, plain, Settings(), SYSTEM_CLOCK)


async def test_an_app_whose_results_are_records_alone_runs_tasks_and_workflows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found(url: str) -> type[Backend] | None:
        return PlainBackend if url.startswith("plain://") else backend_class(url)

    monkeypatch.setattr(connections, "backend_class", found)
    KEPT.clear()
    app = AioTQ("proj", broker=f"sqlite:///{tmp_path}/aiotq.db", backend="plain://")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker():
        result = await add.delay(1, 2)
        assert await result.get(timeout=20) == 3
        together = await chord([add.s(1, 1), add.s(2, 2)], total.s()).apply_async()
        assert await together.get(timeout=20) == 6
        assert result.id in KEPT

        await result.forget()

        assert result.id not in KEPT
