"""What events say, folded into a state that stays bounded."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest

from aiotq.control.state import State
from aiotq.wire.message import new_id

_clock = itertools.count(1)


def event(kind: str, timestamp: float, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "timestamp": timestamp, "hostname": "w1", "pid": 7, "clock": next(_clock), **fields}


def life(uuid: str, at: float = 100.0, name: str = "proj.add") -> list[dict[str, Any]]:
    return [
        event("task-received", at, uuid=uuid, name=name, args="(2, 2)", kwargs="{}", retries=0, root_id=uuid),
        event("task-started", at + 1, uuid=uuid),
        event("task-succeeded", at + 3, uuid=uuid, result="4", runtime=2.0),
    ]


def test_a_call_is_what_its_events_say() -> None:
    state = State(now=lambda: 104.0)
    for each in life("a"):
        state.event(each)

    task = state.tasks["a"]
    assert (task.name, task.args, task.state, task.result, task.runtime) == ("proj.add", "(2, 2)", "SUCCESS", "4", 2.0)
    assert (task.received, task.started, task.succeeded, task.timestamp) == (100.0, 101.0, 103.0, 103.0)
    assert task.worker == "w1"
    assert task.ready
    assert state.task_types() == ["proj.add"]
    assert (state.names["proj.add"].succeeded, state.names["proj.add"].mean_runtime) == (1, 2.0)
    assert [worker.hostname for worker in state.alive_workers()] == ["w1"]
    assert state.workers["w1"].pid == 7


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_in_which_events_come_does_not_matter(order: tuple[int, ...]) -> None:
    state, events = State(), life("a")
    for place in order:
        state.event(events[place])

    assert (state.tasks["a"].state, state.tasks["a"].args) == ("SUCCESS", "(2, 2)")


def test_a_call_that_is_retried_runs_again() -> None:
    state = State()
    received, started, succeeded = life("a")
    state.event(received)
    state.event(started)
    state.event(event("task-retried", 102, uuid="a", exception="ValueError()"))
    assert (state.tasks["a"].state, state.tasks["a"].exception) == ("RETRY", "ValueError()")
    state.event(received | {"timestamp": 110.0})
    state.event(started | {"timestamp": 111.0})
    assert [task.uuid for task in state.running()] == ["a"]
    state.event(succeeded | {"timestamp": 112.0})

    assert state.tasks["a"].state == "SUCCESS"


def test_a_client_whose_clock_is_ahead_does_not_undo_what_a_worker_tells() -> None:
    state = State()
    for each in life("a"):
        state.event(each)
    state.event(event("task-sent", 500.0, uuid="a", hostname="gen1@web", queue="default"))

    task = state.tasks["a"]
    assert (task.state, task.client, task.worker, task.queue) == ("SUCCESS", "gen1@web", "w1", "default")


def test_the_calls_that_were_told_of_last_are_kept() -> None:
    state = State(max_tasks=3)
    for uuid in "abc":
        state.event(life(uuid)[0])
    state.event(life("a")[1])
    state.event(life("d")[0])

    assert [uuid for uuid, _ in state.tasks_by_time()] == ["d", "a", "c"]
    assert [uuid for uuid, _ in state.tasks_by_type("proj.add", limit=2)] == ["d", "a"]
    assert [uuid for uuid, _ in state.tasks_by_worker("w1", reverse=False)] == ["c", "a", "d"]
    assert state.task_count == 5


def test_workers_are_alive_as_long_as_they_are_heard_of() -> None:
    now = 100.0
    state = State(now=lambda: now, max_workers=2)
    for name in ("w0", "w1", "w2"):
        state.event(event("worker-heartbeat", now, hostname=name, freq=2.0, active=1, loadavg=[1, 2, 3]))
    assert list(state.workers) == ["w1", "w2"]
    state.event(event("worker-offline", now, hostname="w2"))
    assert [each.hostname for each in state.alive_workers()] == ["w1"]
    now = 104.0

    assert list(state.alive_workers()) == []
    assert state.workers["w1"].loadavg == [1, 2, 3]
    assert state.workers["w2"].active == 0


def test_rates_are_of_the_last_whole_seconds() -> None:
    now = 100.0
    state = State(now=lambda: now)
    for second in range(10):
        now = 100.5 + second
        for number in range(second):
            for each in life(f"{second}-{number}"):
                state.event(each)
    now = 110.0

    assert state.rate("task-succeeded", 2) == 8.5
    assert state.rate("task-succeeded", 10, name="proj.add") == 4.5
    assert state.rate("task-failed") == 0
    assert state.counts["task-succeeded"] == 45


def test_what_is_no_event_is_left_out() -> None:
    state = State()
    for wrong in (
        {},
        {"type": "task-received"},
        {"type": 3, "timestamp": 1, "hostname": "w"},
        {"type": "task-received", "timestamp": 1, "hostname": "w"},
        {"type": "task-succeeded", "timestamp": 1, "hostname": "w", "uuid": "a", "runtime": "long", "name": ["x"]},
        {"type": "worker-heartbeat", "timestamp": 1, "hostname": "w", "freq": "often", "active": None},
        {"type": "mine-own", "timestamp": 1, "hostname": "w", "anything": {}},
        {"type": "events-dropped", "timestamp": 1, "hostname": "w", "dropped": 7},
    ):
        state.event(wrong)

    assert list(state.tasks) == ["a"]
    assert state.tasks["a"].name is None
    assert state.dropped == 7


def test_a_snapshot_may_forget_what_has_ended() -> None:
    state = State()
    for each in (*life("a"), life("b")[0]):
        state.event(each)

    assert state.freeze_while(len, state.tasks, clear_after=True) == 2
    assert list(state.tasks) == ["b"]


def test_a_hundred_thousand_calls_take_less_than_a_hundred_megabytes() -> None:
    state = State(max_tasks=100_000)
    tracemalloc.start()
    try:
        for number in range(10_000):  # a tenth: each takes the same
            for each in life(new_id(), float(number)):
                state.event(each)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert len(state.tasks) == 10_000
    assert taken * 10 < 100e6, f"{taken / 10_000:.0f} bytes a call"
