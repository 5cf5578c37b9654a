"""What is unknown to a worker is handed on: soon at first, never in a hurry, and not for ever."""

from __future__ import annotations

import logging

import pytest

from aiotq.testing.contracts.harness import JumpingClock
from aiotq.transport import Delivery
from aiotq.wire.message import Message
from aiotq.worker import unknown
from aiotq.worker.unknown import UnknownTasks


def delivery(task_id: str = "a", *, task: str = "proj.new", returns: int = 0, sent_at: float | None = None) -> Delivery:
    return Delivery(Message(task_id, task, b"", sent_at=sent_at), "q", 4, 1, 0.0, returns=returns)


def test_it_comes_again_soon_and_then_less_often() -> None:
    clock = JumpingClock()
    tasks = UnknownTasks(clock, 300)
    delays: list[float] = []

    for returns, pause in enumerate((0, 0.1, 0.2, 0.4, 0.5, 60, 120)):
        clock.jump(pause)
        delays.append(tasks.delay(delivery(returns=returns)) or 0.0)

    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 1, 3], rel=0.3)


def test_it_is_given_up_when_it_came_here_for_the_whole_time() -> None:
    clock = JumpingClock()
    tasks = UnknownTasks(clock, 10)
    began = clock.monotonic()
    returns = 0

    while (delay := tasks.delay(delivery(returns=returns, sent_at=1.0))) is not None:
        clock.jump(delay)
        returns += 1

    assert clock.monotonic() - began == pytest.approx(10)
    assert returns < 35
    assert tasks.delay(delivery(returns=returns)) is not None, "sent once more, it has its time again"


def test_however_old_and_however_often_returned_it_is_new_where_it_comes_first() -> None:
    """It may have stood in a backlog, or gone to and fro between workers that know it and had no room."""
    tasks = UnknownTasks(JumpingClock(), 10)

    assert tasks.delay(delivery(returns=5000, sent_at=1.0)) is not None


def test_without_time_it_is_given_up_at_once() -> None:
    assert UnknownTasks(JumpingClock(), 0).delay(delivery()) is None


def test_a_flood_comes_again_at_a_bounded_rate() -> None:
    tasks = UnknownTasks(JumpingClock(), 300)

    delays = sorted(tasks.delay(delivery(str(n))) or 0.0 for n in range(20_000))

    assert 195 <= delays[-1] <= 200
    assert max(sum(second <= delay < second + 1 for delay in delays) for second in range(3, 200)) <= 101


def test_what_is_remembered_is_bounded_and_the_rest_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "_MOST_REMEMBERED", 10)
    clock = JumpingClock()
    tasks = UnknownTasks(clock, 10)
    now = clock.time()
    for n in range(10):
        tasks.delay(delivery(str(n)))

    assert tasks.delay(delivery("new", returns=3, sent_at=now - 9)) is not None
    assert tasks.delay(delivery("unread", returns=2, sent_at=now - 1000)) is not None
    assert tasks.delay(delivery("old", returns=3, sent_at=now - 11)) is None

    clock.jump(30)
    assert tasks.delay(delivery("old", returns=3, sent_at=now - 11)) is not None, "the others were forgotten"


def test_each_name_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tasks = UnknownTasks(JumpingClock(), 300)

    with caplog.at_level(logging.WARNING):
        for n in range(5):
            tasks.delay(delivery(str(n)))
            tasks.delay(delivery(str(n), task="proj.other"))

    assert [record.getMessage().partition(" in this worker")[0] for record in caplog.records] == [
        "no task is registered as 'proj.new'",
        "no task is registered as 'proj.other'",
    ]


def test_the_sender_of_an_unknown_task_is_named(caplog: pytest.LogCaptureFixture) -> None:
    sent_elsewhere = Delivery(Message("a", "service.add", b"", origin="7@there"), "q", 4, 1, 0.0)

    with caplog.at_level(logging.WARNING):
        UnknownTasks(JumpingClock(), 300).delay(sent_elsewhere)

    assert "It was sent by process 7@there: if that belongs to another app" in caplog.text
