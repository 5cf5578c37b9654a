"""Which backend keeps which contract for an app: what that of results can't, that of messages does."""

from __future__ import annotations

import asyncio
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
from aiotq.exceptions import InvalidSetting, StoreRequired
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


class QuietBackend(Backend):
    """A broker that tells nobody anything, as Amazon's queues are, and records."""

    has_ledger = False

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    def __init__(self, url: str, context: BackendContext) -> None:
        self.broker = MemoryBackend("memory://quiet", context).broker
        self.records = PlainRecords(KEPT, context.clock)


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


def test_a_ledger_of_its_own_decides_and_what_it_tells_is_heard() -> None:
    memory, busy = memory_backend(), BusyBackend("busy://", CONTEXT)

    parts = parts_of(busy, busy, Settings(), SYSTEM_CLOCK, ledger=memory)

    assert parts.ledger is memory.ledger
    assert (parts.bus, parts.further_buses) == (busy.bus, (memory.bus,))


def test_what_decides_nothing_is_no_ledger() -> None:
    memory = memory_backend()

    with pytest.raises(InvalidSetting, match=r"'ledger' must be .* this can't, not 'plain://me:\*\*@x'"):
        parts_of(
            memory,
            memory,
            Settings({"ledger": "plain://me:pw@x"}),
            SYSTEM_CLOCK,
            ledger=PlainBackend("plain://", CONTEXT),
        )


def test_what_keeps_only_records_is_no_broker() -> None:
    plain = PlainBackend("plain://", CONTEXT)

    with pytest.raises(InvalidSetting, match="this one keeps results only"):
        parts_of(plain, plain, Settings(), SYSTEM_CLOCK)


def plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `plain://` and `quiet://` be URLs."""

    def found(url: str) -> type[Backend] | None:
        ours = {"plain": PlainBackend, "quiet": QuietBackend}
        return ours.get(url.partition(":")[0]) or backend_class(url)

    monkeypatch.setattr(connections, "backend_class", found)
    KEPT.clear()


async def test_without_a_bus_results_of_other_processes_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    caller, worker = AioTQ("proj", broker="quiet://"), AioTQ("proj", broker="quiet://")

    @worker.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with caller, worker, worker.worker():
        result = await caller.send_task("proj.add", (1, 2))
        async with asyncio.timeout(4):  # less than the net under lost pushes
            assert await result == 3
        with pytest.raises(StoreRequired):
            await chord([add.s(1, 1)], add.s(1)).apply_async()


async def test_with_a_ledger_of_its_own_a_broker_that_has_none_does_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in(monkeypatch)
    app = AioTQ("proj", broker="quiet://", ledger=f"sqlite:///{tmp_path}/ledger.db")

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker():
        together = await chord([total.s([1, 1]), total.s([2, 2])], total.s()).apply_async()
        assert await together.get(timeout=20) == 6
        assert [await app.admin.pause("later") for _ in range(2)] == [True, False]


async def test_an_app_whose_results_are_records_alone_runs_tasks_and_workflows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in(monkeypatch)
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
