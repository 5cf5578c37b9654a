"""Names of Celery's that are not here say what to write instead; the current app can be asked for."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import aiotq
from aiotq import AioTQ, AsyncResult, Canvas, GroupResult, ResultSet, Signature, Task, chain, chord, group
from aiotq.control.remote import Control
from aiotq.core import celery_names
from aiotq.exceptions import CallError

app = AioTQ("words", broker="memory://")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


RESULT = AsyncResult[int]("an-id", app)
THERE: dict[str, tuple[celery_names.Names, list[Any]]] = {
    "result": (celery_names.RESULT, [RESULT]),
    "sync result": (celery_names.SYNC_RESULT, [RESULT.sync]),
    "results": (celery_names.RESULTS, [ResultSet([RESULT], app), GroupResult("group", [RESULT], app)]),
    "canvas": (celery_names.CANVAS, [add.s(1, 2)]),
    "task": (celery_names.TASK, [add]),
    "app": (celery_names.APP, [app]),
    "control": (celery_names.CONTROL, [app.control]),
    "inspect": (celery_names.INSPECT, [app.control.inspect()]),
    "module": (celery_names.MODULE, [aiotq]),
}


@pytest.mark.parametrize("kind", THERE)
def test_a_name_that_is_not_here_says_what_to_write_instead(kind: str) -> None:
    names, owners = THERE[kind]
    for owner in owners:
        for name, instead in names.items():
            with pytest.raises(AttributeError) as raised:
                getattr(owner, name)
            assert f"no attribute {name!r}: {instead}" in str(raised.value)
            assert not hasattr(owner, name)


@pytest.mark.parametrize("name", ["Celery", "get_task_logger"])
def test_an_import_of_such_a_name_says_it_too(name: str) -> None:
    with pytest.raises(ImportError) as raised:
        exec(f"from aiotq import {name}")
    assert str(raised.value) == f"cannot import name {name!r} from 'aiotq': {celery_names.MODULE[name]}"
    with pytest.raises(ImportError, match=r"\(.*__init__\.py\)"):  # Python's own
        exec("from aiotq import no_such_name")


@pytest.mark.parametrize("kind", THERE)
def test_other_names_are_missing_as_usual(kind: str) -> None:
    for owner in THERE[kind][1]:
        with pytest.raises(AttributeError, match=r"has no attribute 'colour'$"):
            getattr(owner, "colour")  # noqa: B009 (type checkers refuse it)


@pytest.mark.parametrize(
    "flow", [add.s(1, 2), chain(add.s(1, 2), add.s(3)), group(add.s(1, 2)), chord([add.s(1, 2)], add.s(3))]
)
def test_what_knows_such_names_is_copied_and_pickled(flow: Canvas[Any]) -> None:
    assert copy.deepcopy(flow) == flow == pickle.loads(pickle.dumps(flow))


def test_only_a_group_and_a_chain_have_what_only_they_do() -> None:
    assert callable(group(add.s(1, 2)).skew)
    steps: Any = chain(add.s(1, 2), add.s(3))
    assert callable(steps.unchain_tasks)
    assert isinstance(add.s(1, 2), Signature)
    assert isinstance(add, Task)
    assert isinstance(app.control, Control)


def test_the_current_app_is_the_last_one_or_the_one_that_was_chosen() -> None:
    first, second = AioTQ("first"), AioTQ("second")

    assert aiotq.current_app == second
    assert aiotq.current_app.main == "second"

    first.set_default()

    assert aiotq.current_app == first
    assert repr(aiotq.current_app) == repr(first)


async def test_in_a_task_the_current_app_is_that_of_the_task() -> None:
    @app.task(name="words.whose")
    async def whose() -> str | None:
        return aiotq.current_app.main

    AioTQ("another")

    assert await (await whose.apply()).get() == "words"


async def test_results_that_name_no_app_are_the_current_ones() -> None:
    AioTQ("another", broker="memory://")
    app.set_default()

    async with app, app.worker():
        sent = await add.delay(1, 1)
        assert await AsyncResult[int](sent.id).get(timeout=10) == 2
        assert await ResultSet([AsyncResult[int](sent.id)]).get(timeout=10) == [2]
        saved = await group(add.s(1, 2)).delay()
        await saved.save()
        restored = await GroupResult[int].restore(saved.id)
        assert restored is not None
        assert await restored.get(timeout=10) == [3]


def test_without_an_app_there_is_no_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.tasks.current_app.default_core", [])

    with pytest.raises(CallError, match="create an AioTQ first"):
        _ = aiotq.current_app.send_task
