"""Observers of a worker: told what happens there, by plain calls, and without harm to anybody."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from aiotq import AioTQ
from aiotq.canvas.outcome import Outcome
from aiotq.commit import Finish
from aiotq.transport import Delivery
from aiotq.worker.observers import Observer
from aiotq.worker.run import Run
from aiotq.worker.worker import Worker


class Noting(Observer):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def ready(self, worker: Worker) -> None:
        self.told.append("ready")

    def stopping(self, worker: Worker, how: str) -> None:
        self.told.append(("stopping", how))

    def stopped(self, worker: Worker) -> None:
        self.told.append("stopped")

    def received(self, deliveries: Sequence[Delivery]) -> None:
        self.told += [("received", each.message.id) for each in deliveries]

    def handed_back(self, delivery: Delivery, delay: float) -> None:
        self.told.append(("handed back", delivery.message.id))

    def started(self, run: Run) -> None:
        assert run.request is not None
        self.told.append(("started", run.request.args))

    def committed(self, count: int, seconds: float) -> None:
        assert seconds > 0
        self.told.append(("committed", count))

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        assert outcome is not None
        assert finish is not None
        assert run.seconds > 0
        kept = None if finish.record is None else finish.record.state
        self.told.append((outcome.state, outcome.retval, kept))


class Failing(Observer):
    """Fails at all it is told."""

    def received(self, deliveries: Sequence[Delivery]) -> None:
        raise ValueError("received")

    def started(self, run: Run) -> None:
        raise ValueError("started")

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        raise SystemExit("ended")

    def stopped(self, worker: Worker) -> None:
        raise ValueError("stopped")


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://")


async def test_an_observer_hears_of_a_run_from_its_arrival_to_its_end(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    observer, worker = Noting(), app.worker()
    worker.observe(observer)

    async with app, worker:
        result = await add.delay(2, 2)
        assert await result.get(timeout=5) == 4

    assert observer.told == [
        *("ready", ("received", result.id), ("started", (2, 2)), ("SUCCESS", 4, "SUCCESS")),
        *(("committed", 1), ("stopping", "Warm"), "stopped"),
    ]


async def test_an_observer_hears_how_a_call_ended_for_its_caller(app: AioTQ) -> None:
    """A value that can't be kept is the caller's failure, whatever the task returned."""

    @app.task
    async def give() -> object:
        return object()

    observer, worker = Noting(), app.worker()
    worker.observe(observer)

    async with app, worker:
        error = await (await give.delay()).get(timeout=5, propagate=False)

    ended = [told for told in observer.told if isinstance(told, tuple) and told[0] == "FAILURE"]
    assert [(state, str(came), kept) for state, came, kept in ended] == [("FAILURE", str(error), "FAILURE")]


async def test_an_observer_that_fails_is_in_the_log_and_harms_nobody(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    observer, worker = Noting(), app.worker()
    worker.observe(Failing())
    worker.observe(observer)

    async with app, worker:
        result = await add.delay(2, 2)
        assert await result.get(timeout=5) == 4

    assert ("SUCCESS", 4, "SUCCESS") in observer.told
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 4
    assert sum(result.id in each.getMessage() for each in errors) == 2
