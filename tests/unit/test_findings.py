"""What needs a look, in pictures of a deployment: each rule finds its fault, and nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.control.findings import RULES, examined
from aiotq.control.fleet import FleetMember
from aiotq.control.picture import DeadFacts, Picture, RunningFacts, ScheduleFacts, TaskFacts, WorkerFacts
from aiotq.control.recent import Figures, Recent, TaskFigures, interval_of
from aiotq.core.settings import Settings, from_environment
from aiotq.core.values import replace
from aiotq.exceptions import InvalidSetting
from aiotq.transport import QueueStats

NOW = 1_000_000.0
WORKER = FleetMember(
    key="one#1",
    kind="worker",
    name="one",
    host="n1",
    pid=1,
    boot_id="b",
    version="1.0",
    queues=("default",),
    tasks=("proj.add",),
    task_count=1,
    slots={"loop": (0, 100)},
    running=0,
    completed=0,
    is_paused=False,
    load=0.1,
    started=NOW - 100,
    seen=NOW,
    is_missing=False,
    missing_for=0.0,
    is_live=True,
    blocked=None,
    blocked_since=None,
)
SCHEDULER = replace(WORKER, key="beat#1", kind="scheduler", name="beat", queues=(), tasks=())
FACTS = {"one#1": WorkerFacts(frozenset({"proj.add"}), 0.1)}
WELL = Picture(
    now=NOW,
    version="1.0",
    conf=Settings(),
    has_fleet=True,
    members=[WORKER, SCHEDULER],
    workers=FACTS,
    queues=[QueueStats("default", 3, 1, 0, 0, 5.0)],
    tasks=[TaskFacts("proj.add", ("default",))],
    periodic=2,
    clock=0.3,
)


def settings(**changed: Any) -> Settings:
    conf = Settings()
    conf.update(**changed)
    return conf


def test_where_all_is_well_nothing_is_found() -> None:
    assert examined(WELL) == []


def recent(lately: Figures, before: Figures) -> Recent:
    return Recent(tasks=(TaskFigures("proj.add", "default", lately, before),))


def spread(run: float = 0.1, wait: float = 0.1) -> Figures:
    """What ended as it should: all ran, and waited, for so long."""
    return Figures(100, run={interval_of(run): 100}, wait={interval_of(wait): 100})


@pytest.mark.parametrize(
    "change",
    [
        {"recent": recent(Figures(96, 4), Figures(1000))},  # few fail
        {"recent": recent(Figures(60, 40), Figures(70, 30))},  # as many as ever
        {"recent": recent(Figures(0, 5), Figures(1000))},  # few ran
        {"queues": [QueueStats("default", 9, 0, 0, 0, 200.0)], "recent": recent(spread(wait=90), spread(wait=80))},
        {"running": [RunningFacts("a", "proj.add", "one", 9e3)], "recent": recent(spread(run=4e3), Figures())},
        {"running": [RunningFacts("a", "proj.add", "one", 9e3)]},  # nothing is known of it
        {"queues": [*WELL.queues, QueueStats("aiotq.delay", 0, 0, 5, 0)]},  # RabbitMQ's: no queue of workers
    ],
)
def test_what_is_as_usual_is_not_told(change: dict[str, Any]) -> None:
    assert examined(replace(WELL, **change)) == []


def test_thresholds_are_settings() -> None:
    few = replace(WELL, recent=recent(Figures(96, 4), Figures(1000)))

    (found,) = examined(replace(few, conf=settings(alert_thresholds={"failing": 0.01})))
    assert found.rule == "task-fails-more"
    assert AioTQ(alert_thresholds={"oldest": 5}).conf.alert_thresholds == {"oldest": 5.0}
    for wrong in ({"old": 5}, {"oldest": -1}, {"oldest": True}, {"oldest": "1"}, 7):
        with pytest.raises(InvalidSetting, match="alert_thresholds"):
            AioTQ(alert_thresholds=wrong)
    assert from_environment({"AIOTQ_ALERT_THRESHOLDS": "oldest:60,failing:0.01"}) == {
        "alert_thresholds": {"oldest": 60.0, "failing": 0.01}
    }
    with pytest.raises(InvalidSetting, match="as oldest:60"):
        from_environment({"AIOTQ_ALERT_THRESHOLDS": "oldest"})


@pytest.mark.parametrize(
    ("change", "rule", "level", "text"),
    [
        ({"server": ["Redis: its policy is bad; set it right"]}, "server-settings", "warning", "its policy is bad"),
        ({"members": [SCHEDULER]}, "no-workers", "error", "no worker is there"),
        (
            {"members": [WORKER, replace(SCHEDULER, name="x", is_missing=True, missing_for=60.0), SCHEDULER]},
            *("missing-worker", "warning", "scheduler x went missing 1 min ago (n1, pid 1)"),
        ),
        (
            {"members": [replace(WORKER, blocked="proj.add[7]", blocked_since=NOW - 9), SCHEDULER]},
            *("blocked-worker", "error", "blocked for 9 s by proj.add[7]"),
        ),
        ({"workers": {"one#1": WorkerFacts(None, None)}}, "silent-worker", "warning", "one is registered and does not"),
        ({"members": [replace(WORKER, is_paused=True), SCHEDULER]}, "paused-worker", "note", "worker one is paused"),
        ({"version": "2.0"}, "versions-differ", "warning", "2.0 here; 1.0: beat, one"),
        ({"clock": -3.0}, "clocks-differ", "warning", "store is -3.0 s off"),
        ({"workers": {"one#1": WorkerFacts(frozenset({"proj.add"}), 7.0)}}, "clocks-differ", "warning", "+7.0 s off"),
        (
            {"queues": [QueueStats("mail", 2, 0, 3, 0)]},
            *("queue-without-worker", "error", "queue 'mail': no worker takes from it, and 5 messages wait"),
        ),
        (
            {"tasks": [TaskFacts("proj.send", ("mail",))]},
            *("queue-without-worker", "warning", "and calls of proj.send go there"),
        ),
        (
            {"queues": [QueueStats("default", 4, 0, 0, 0, 5.0, NOW - 7200)]},
            *("paused-queue", "warning", "paused for 2 h, and 4 messages wait"),
        ),
        (
            {"queues": [QueueStats("default", 0, 0, 0, 0, None, NOW - 5)]},
            *("paused-queue", "note", "paused for 5 s, and 0 messages wait"),
        ),
        (
            {"queues": [QueueStats("default", 900, 1, 0, 0, 3600.0)]},
            *("queue-falls-behind", "warning", "the oldest of 900 messages has waited 1 h"),
        ),
        (
            {"workers": {"one#1": WorkerFacts(frozenset(), 0.0)}},
            *("task-without-worker", "error", "no worker that takes from default knows proj.add"),
        ),
        (
            {
                "members": [WORKER, replace(WORKER, key="two#1", name="two"), SCHEDULER],
                "workers": {**FACTS, "two#1": WorkerFacts(frozenset(), 0.0)},
            },
            *("task-without-worker", "warning", "1 of 2 workers that take from default do not know proj.add"),
        ),
        (
            {"tasks": [TaskFacts("proj.add", (), "loop", "no such queue")]},
            *("task-without-route", "error", "calls of proj.add: no such queue"),
        ),
        (
            {"dead": [DeadFacts("default", 3, ("deaths", "malformed"))]},
            *("dead-letters-grow", "warning", "3 dead letters in the last 1 h (deaths, malformed)"),
        ),
        (
            {"recent": recent(Figures(90, 7, 3, errors={"ValueError": 7}), Figures(990, 10))},
            *(
                "task-fails-more",
                "warning",
                "proj.add fails 10 % of its runs in the last ten minutes, 1.0 % before that",
            ),
        ),
        (
            {"recent": recent(Figures(10, 10, errors={"ValueError": 10}), Figures())},
            *(
                "task-fails-more",
                "warning",
                "proj.add fails 50 % of its runs in the last ten minutes (10 times ValueError",
            ),
        ),
        (
            {
                "queues": [QueueStats("default", 90, 1, 0, 0, 200.0)],
                "recent": recent(spread(wait=90.0), spread(wait=1.0)),
            },
            *("queue-falls-behind", "warning", "the oldest of 90 messages has waited 3 min; half of the calls waited"),
        ),
        (
            {
                "recent": recent(Figures(), spread(run=2.0)),
                "running": [RunningFacts("a", "proj.add", "one", 3.0), RunningFacts("b", "proj.add", "one", 65.0)],
            },
            *("run-is-slow", "warning", "proj.add[b] has run for 1 min on one; 95 of 100 take"),
        ),
        (
            {"schedules": [ScheduleFacts("nightly", "FAILURE", "x"), ScheduleFacts("hourly", "SUCCESS", "y")]},
            *("schedule-failed", "warning", "periodic task nightly: its last run failed"),
        ),
        ({"members": [WORKER]}, "no-scheduler", "error", "2 periodic tasks and no scheduler"),
        ({"conf": settings(broker_url="memory://")}, "settings", "error", "this process's own memory"),
        ({"conf": settings(task_always_eager=True)}, "settings", "error", "calls run where they are made"),
        ({"conf": settings(result_backend="rpc://")}, "settings", "warning", "no store is shared"),
        ({"conf": settings(worker_lease=2.0)}, "settings", "warning", "worker_lease is 2 s"),
        ({"conf": settings(task_time_limit=3600.0)}, "settings", "note", "tasks may run for 3600"),
        (
            {"conf": settings(task_time_limit=5.0), "tasks": [TaskFacts("proj.add", ("default",), "thread")]},
            *("settings", "warning", "run in threads: proj.add"),
        ),
    ],
)
def test_a_fault_is_found_alone_and_says_what_to_do(change: dict[str, Any], rule: str, level: str, text: str) -> None:
    (found,) = examined(replace(WELL, **change))

    assert (found.rule, found.level) == (rule, level)
    assert text in found.text
    assert found.advice.endswith(".")


def test_what_is_worst_comes_first() -> None:
    found = examined(replace(WELL, members=[replace(WORKER, is_paused=True)], version="2.0"))

    assert [each.level for each in found] == ["error", "warning", "note"]


def test_a_deployment_that_is_not_there_yet_is_told_of_once() -> None:
    found = examined(replace(WELL, members=[], workers={}, queues=[], periodic=0))

    assert [each.rule for each in found] == ["no-workers"]


def test_each_rule_says_what_it_looks_for() -> None:
    assert all(rule.__doc__ for rule in RULES)
