"""Random workflows come to the same among faults: every call once, every callback once, every workflow to its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import pytest

from aiotq.core.inside import core_of

from .agreeing import disagreements
from .conftest import MakeApp
from .faults import Faults
from .tasks import Tasks
from .workflows import examples

COUNTS: Final = {"memory": 400, "ordered": 60, "sqlite": 200, "redis": 300, "postgres": 100}
SEED: Final = 40
#: Seconds. A message that comes twice while it runs waits as long before it is looked at again.
LEASE: Final = 3.0


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Faults are tried again at once, and not told."""
    monkeypatch.setattr("aiotq.worker.step_inputs._STORE_DELAY", 0.01)
    monkeypatch.setattr("aiotq.worker.completer._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("aiotq.worker.completer._LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("aiotq.worker.intake._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("aiotq.worker.intake._LONGEST_PAUSE", 0.01)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("pair", COUNTS)
async def test_workflows_come_to_the_same_among_faults(pair: str, make_app: MakeApp) -> None:
    faults = Faults(SEED, one_in=15, repeats=pair == "ordered")
    app = make_app(worker_lease=LEASE)
    tasks = Tasks(app)

    async with app:
        faults.disturb(await core_of(app).connection())
        async with app.worker(concurrency=10, threads=2):
            found = await disagreements(app, tasks, examples(COUNTS[pair], SEED), at_once=20)

    assert faults.count > 50
    assert not found, "\n".join(map(str, found[:3]))
