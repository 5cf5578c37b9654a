"""The store on the page about stores is found by its URL, keeps the contract, and brings results to callers."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ, chord
from aiotq.backends import base
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.backends.memory.queues import MemoryQueues
from aiotq.exceptions import InvalidSetting, MissingLibrary, SettingsError
from aiotq.results import RecordStore
from aiotq.testing.contracts import PushContract, RecordContract, StoreHarness

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "stores.md").read_text()
#: Makes another package as an installer would; returns where it is.
Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    def install(name: str, entry_points: str) -> Path:
        package = tmp_path / name
        (package / f"{name}-1.0.dist-info").mkdir(parents=True)
        (package / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n")
        (package / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(f"[aiotq.backends]\n{entry_points}\n")
        monkeypatch.syspath_prepend(package)
        return package

    base._added.cache_clear()
    yield install
    base._added.cache_clear()
    sys.modules.pop("files_store", None)


@pytest.fixture
def files_store(install: Install) -> Any:
    """The module on the page, in a package whose entry points are those on the page."""
    store, toml, test = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "toml", "python"))
    compile(test[1], "docs/guides/stores.md", "exec")
    (line,) = re.findall(r'^files = "(.*)"$', toml[0], re.MULTILINE)
    (install("files_store", f"files = {line}") / "files_store.py").write_text(store[0])
    return importlib.import_module("files_store")


class TestFileRecords(RecordContract, PushContract):
    @pytest.fixture
    async def results(self, files_store: Any, tmp_path: Path) -> AsyncIterator[StoreHarness]:
        def make(clock: object) -> RecordStore:
            store: RecordStore = files_store.FileRecords(tmp_path, clock=clock)
            return store

        async with StoreHarness(make) as harness:
            yield harness


async def test_an_app_keeps_its_results_in_the_store_of_another_package(files_store: Any, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    app = AioTQ("proj", broker="memory://", backend=f"files://{tmp_path}/results")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker():
        result = await chord([add.s(1, 1), add.s(2, 2)], total.s()).apply_async()
        assert await result.get(timeout=10) == 6
        assert await app.AsyncResult(result.id).get(timeout=10) == 6
        assert (tmp_path / "results" / result.id).exists()

    gone = AioTQ("proj", broker="memory://", backend="files:///nowhere")
    with pytest.raises(InvalidSetting, match="no such directory"):
        await gone.send_task("proj.add", (1, 1))


def test_what_another_package_adds_and_cant_be_used_is_told_with_its_name(install: Install) -> None:
    install("broken", "broken = not_there:Backend\nredis = not_there:Backend\ntwice = a:B\nodd = json:loads")
    install("again", "twice = c:D")

    with pytest.raises(MissingLibrary, match="broken:// is added by broken, which can't be loaded: No module named"):
        base.backend_class("broken://")
    with pytest.raises(SettingsError, match=r"twice:// is added by several packages \(again, broken\)"):
        base.backend_class("twice://")
    with pytest.raises(SettingsError, match="odd:// is added by broken, but json:loads is no class of Backend"):
        base.backend_class("odd://")
    assert base.backend_class("nobody://") is None
    found = base.backend_class("redis://")
    assert found is not None
    assert found.__name__ == "RedisBackend"


async def test_the_suite_of_the_page_takes_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    page = re.findall(r"```python\n(# test_my_broker.py.*?)```", PAGE, re.DOTALL)[0]
    module = types.ModuleType("my_broker")
    shared = MemoryQueues()
    module.MyBroker = lambda url: MemoryBroker(shared)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_broker", module)
    found: dict[str, Any] = {}
    exec(compile(page, "docs/guides/stores.md", "exec"), found)  # as a test file of the reader would be

    async with found["MyHarness"]() as harness:
        suite = found["TestMyBroker"]()
        await suite.test_messages_of_one_priority_come_in_the_order_they_were_sent(harness)
