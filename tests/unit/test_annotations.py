"""`task_annotations`: the settings' word on the options of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aiotq import AioTQ, Task
from aiotq.exceptions import InvalidOption, InvalidSetting, SettingsFrozen

RATE = {"rate_limit": "10/s"}


def make(annotations: Any = (), **settings: Any) -> AioTQ:
    return AioTQ("x", broker="memory://", task_annotations=annotations, **settings)


async def step() -> None: ...


class Slow:
    """Annotates tasks as Celery documents it: by an object with a method."""

    def annotate(self, task: Task[..., Any]) -> Mapping[str, Any] | None:
        return {"soft_time_limit": 9} if task.name.startswith("feed.") else None


def at_least_once(task: Task[..., Any]) -> Mapping[str, Any] | None:
    return {"acks_late": True} if task.declared.acks_late is False else None


@pytest.mark.parametrize(
    ("annotations", "changed"),
    [
        ({"feed.read": RATE}, {"rate_limit": "10/s"}),
        ({"feed.*": RATE}, {"rate_limit": "10/s"}),
        ({"*": RATE}, {"rate_limit": "10/s"}),
        ({"feed": RATE, "Feed.read": RATE}, {}),
        ({"feed.read": {"priority": 1}, "*": {"priority": 2, "queue": "q"}}, {"priority": 1, "queue": "q"}),
        ({"feed.*": {"priority": 1}, "*": {"priority": 2}}, {"priority": 1}),
        ([{"feed.read": {"priority": 1}}, {"*": {"priority": 2}}], {"priority": 2}),
        (Slow(), {"soft_time_limit": 9}),
        ((Slow(), {"*": RATE}), {"soft_time_limit": 9, "rate_limit": "10/s"}),
        (at_least_once, {"acks_late": True}),
        ({"*": {"autoretry_for": [OSError], "max_retries": 9}}, {"autoretry_for": (OSError,), "max_retries": 9}),
        (None, {}),
        ((), {}),
    ],
)
def test_a_task_is_as_its_annotations_say_whenever_it_was_declared(annotations: Any, changed: dict[str, Any]) -> None:
    before = make()
    early = before.task(name="feed.read", acks_late=False, rate_limit="1/s")(step)
    before.conf.task_annotations = annotations
    late = make(annotations).task(name="feed.read", acks_late=False, rate_limit="1/s")(step)

    for task in (early, late):
        expected = {"acks_late": False, "rate_limit": "1/s", "max_retries": 3, **changed}
        assert {option: getattr(task.declared, option) for option in expected} == expected
        assert task.max_retries == expected["max_retries"]


def test_annotations_that_are_taken_back_leave_the_task_as_it_was_declared() -> None:
    app = make({"*": {"priority": 9, "on_failure": lambda task, *args: None}})
    task = app.task(name="feed.read", priority=1)(step)
    assert (task.declared.priority, sorted(task.handlers)) == (9, ["on_failure"])

    app.conf.task_annotations = {"other": RATE}

    assert (task.declared.priority, task.declared.rate_limit, task.handlers) == (1, None, frozenset())


async def test_annotated_options_and_handlers_hold_when_the_task_runs() -> None:
    told: list[Any] = []

    def on_success(task: Task[..., Any], retval: Any, *more: Any) -> None:
        told.append((task.name, retval))

    app = make({"add": {"on_success": on_success, "queue": "sums", "ignore_result": False}}, task_ignore_result=True)

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker(queues=["sums"]):
        assert await (await add.delay(2, 2)).get(timeout=10) == 4
    assert told == [("add", 4)]


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"add": {"rate_limits": 1}}, r"\['add'\].*unknown task option 'rate_limits'.*did you mean"),
        ({"add": {"priority": 11}}, r"\['add'\].*priority must be a whole number from 0 to 9, not 11"),
        ([{}, {"*": {"name": "x"}}], r"\[1\]\['\*'\].*option name stands in the declaration"),
        ({"*": {"bind": True}}, "option bind stands in the declaration"),
        ({"add": {"on_failure": "later"}}, "on_failure must be a function"),
        ({"add": 3}, r"a mapping of options at \['add'\]"),
        ({3: {}}, "this names no task"),
        ("proj.annotations", "a mapping of task names"),
        ([3], r"at \[0\]"),
        (Slow, "an object with annotate"),
    ],
)
def test_what_no_task_can_be_annotated_with_is_refused_when_it_is_set(annotations: Any, text: str) -> None:
    with pytest.raises(InvalidSetting, match=text):
        make(annotations)


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"*": {"time_limit": 5}}, r"task here: task_annotations\['\*'\]: .*a thread can't be stopped"),
        (
            lambda task: {"rate": 1} if task.name == "here" else None,
            r"task here: task_annotations: unknown task option 'rate'",
        ),
        (
            [lambda task: 3 if task.name == "here" else None],
            r"task here: task_annotations\[0\] must give a mapping of options or None, not 3",
        ),
    ],
)
def test_what_is_impossible_for_one_task_is_refused_with_its_name(annotations: Any, text: str) -> None:
    def here() -> None: ...

    with pytest.raises(InvalidOption, match=text):
        make(annotations).task(name="here")(here)
    app = make()
    app.task(name="here")(here)
    with pytest.raises(InvalidOption, match=text):
        app.conf.task_annotations = annotations


async def test_they_are_fixed_when_the_app_is_in_use() -> None:
    app = make()
    async with app:
        with pytest.raises(SettingsFrozen):
            app.conf.task_annotations = {"*": RATE}
