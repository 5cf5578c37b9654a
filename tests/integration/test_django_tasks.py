"""`django.tasks` on aiotq: Django's own way to declare, enqueue and look up tasks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.tasks.registry import _shared_tasks
from aiotq.testing import SyncTestWorker, TestWorker
from tests import django_here

django_here.set_up()
django_here.start_thread()

from django.test import override_settings  # noqa: E402  # needs a configured project
from django.utils import timezone  # noqa: E402

from aiotq.contrib.django import enqueued  # noqa: E402
from aiotq.contrib.django.tasks_backend import PACKAGE  # noqa: E402
from tests import django_jobs as jobs  # noqa: E402

#: Django's own since 6.0; before, the backport, one of whose exceptions is called otherwise.
framework: Any = importlib.import_module(PACKAGE)
exceptions: Any = importlib.import_module(f"{PACKAGE}.exceptions")
signals: Any = importlib.import_module(f"{PACKAGE}.signals")
default_task_backend, TaskResultStatus = framework.default_task_backend, framework.TaskResultStatus
InvalidTask = getattr(exceptions, "InvalidTask" if PACKAGE == "django.tasks" else "InvalidTaskError")

#: The tasks of `jobs`, which are every app's: of those here, and not of all that other tests make in this process.
_OURS = {name: _shared_tasks.pop(name) for name in [*_shared_tasks] if name.startswith(f"{jobs.__name__}.")}


@pytest.fixture(autouse=True)
def jobs_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in _OURS.items():
        monkeypatch.setitem(_shared_tasks, name, task)


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("django_tasks", broker="memory://")


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """The signals that were sent, with the status of the task."""
    told: list[tuple[str, str]] = []
    receivers = {
        signal: lambda task_result, name=name, **_: told.append((name, str(task_result.status)))
        for name, signal in (
            ("enqueued", signals.task_enqueued),
            ("started", signals.task_started),
            ("finished", signals.task_finished),
        )
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    yield told
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


def test_the_life_of_a_call(app: AioTQ, told: list[tuple[str, str]]) -> None:
    with SyncTestWorker(app) as t:
        result = jobs.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(2, y=40)

        assert result.status == TaskResultStatus.READY
        assert (result.args, result.kwargs, result.attempts) == ([2], {"y": 40}, 0)
        assert result.enqueued_at is not None
        assert not result.is_finished
        with pytest.raises(ValueError, match="not finished"):
            _ = result.return_value

        t.advance(hours=1.1)
        result.refresh()

        assert result.status == TaskResultStatus.SUCCESSFUL
        assert result.return_value == 42
        assert result.attempts == 1
        assert result.started_at is not None
        assert result.started_at == result.last_attempted_at
        assert result.started_at >= result.enqueued_at
        assert result.finished_at is not None
        assert told == [("enqueued", "READY"), ("started", "RUNNING"), ("finished", "SUCCESSFUL")]

        found = jobs.add.get_result(result.id)
        assert (found.return_value, found.args, found.worker_ids) == (42, [2], result.worker_ids)
        with pytest.raises(exceptions.TaskResultMismatch):
            jobs.fail.get_result(result.id)
        with pytest.raises(exceptions.TaskResultDoesNotExist):
            default_task_backend.get_result("nobody-sent-this")


async def test_in_coroutines(app: AioTQ, told: list[tuple[str, str]]) -> None:
    async with TestWorker(app) as t:
        result = await jobs.add_later.aenqueue(2, 40)
        await t.idle()
        await result.arefresh()

        assert cast("Any", result.return_value) == 42
        t.assert_sent("tests.django_jobs.add_later", args=(2, 40), queue="sums", priority=7)
        assert (await jobs.add_later.aget_result(result.id)).task == jobs.add_later
        assert told == [("enqueued", "READY"), ("started", "RUNNING"), ("finished", "SUCCESSFUL")]


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [(jobs.fail, ValueError, "no luck"), (jobs.leave, SystemExit, "it is over")],
)
def test_a_failure_is_told_with_its_exception(app: AioTQ, told: Any, task: Any, kind: type, text: str) -> None:
    with SyncTestWorker(app) as t:
        result = task.enqueue("no luck") if task is jobs.fail else task.enqueue()
        t.idle()
        result.refresh()

        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class is kind
        assert result.errors[0].traceback.endswith(f"{kind.__name__}: {text}\n")
        assert ("finished", "FAILED") in told  # the worker may be quicker than who tells that it is enqueued
        with pytest.raises(ValueError, match="failed"):
            _ = result.return_value


def test_what_is_kept_of_a_call_is_encrypted_if_its_result_is() -> None:
    app = AioTQ("django_tasks", broker="memory://", encryption_keys=["a secret of 32 letters or even more"])

    async def kept(task_id: str) -> bytes:
        (record,) = await (await core_of(app).reader()).records.get([task_id + enqueued.SUFFIX])
        assert record is not None
        return record.body

    with SyncTestWorker(app) as t:
        result = jobs.attempt.enqueue(word="a word that nobody is to read")
        t.idle()
        result.refresh()
        assert b"a word that" not in app.sync(kept, result.id)
        assert result.kwargs == {"word": "a word that nobody is to read"}
        assert result.attempts == 1


def test_the_context_counts_attempts_and_values_are_json(app: AioTQ) -> None:
    with SyncTestWorker(app) as t:
        results = [
            jobs.attempt.enqueue(word="a"),
            jobs.answer_with_a_tuple.enqueue(),
            jobs.answer_with_a_function.enqueue(),
        ]
        t.idle()
        for result in results:
            result.refresh()

        assert results[0].return_value == [1, results[0].id, "a"]
        assert results[1].return_value == [1, {"two": [3]}]
        assert results[2].errors[0].exception_class is TypeError


def test_what_can_t_be_sent_is_refused_where_it_is_enqueued(app: AioTQ) -> None:
    with SyncTestWorker(app) as t:
        wrongs: list[dict[str, Any]] = [{"priority": 101}, {"run_after": timezone.now().replace(tzinfo=None)}]
        for wrong in wrongs:
            with pytest.raises(InvalidTask):
                jobs.add.using(**wrong)
        with pytest.raises(TypeError):
            jobs.add.enqueue(cast("Any", object()))
        elsewhere = jobs.add.using(queue_name="elsewhere")
        backend = "aiotq.contrib.django.tasks_backend.AiotqBackend"
        with (
            override_settings(TASKS={"default": {"BACKEND": backend, "QUEUES": ["here"]}}),
            pytest.raises(InvalidTask, match="elsewhere"),
        ):
            elsewhere.enqueue(1)
        assert t.sent == []


def test_with_eager_calls_the_result_is_there_at_once(app: AioTQ) -> None:
    app.conf.update(task_always_eager=True)
    try:
        result = jobs.add.enqueue(2, 40)
        failed, left = jobs.fail.enqueue("no luck"), jobs.leave.enqueue()
    finally:
        app._core.bridge.stop()

    assert (result.status, result.return_value, result.attempts) == (TaskResultStatus.SUCCESSFUL, 42, 1)
    assert [each.errors[0].exception_class for each in (failed, left)] == [ValueError, SystemExit]


async def test_a_call_that_is_enqueued_from_a_sync_view_under_asgi_uses_the_loop_of_the_server(app: AioTQ) -> None:
    async with app:
        await sync_to_async(jobs.add.enqueue)(1)

        assert app._core.connections.loops == 1


def test_a_backend_without_an_app_says_so(app: AioTQ) -> None:
    backend = "aiotq.contrib.django.tasks_backend.AiotqBackend"
    named = {"default": {"BACKEND": backend, "OPTIONS": {"app": "nothing_like_this:app"}}}
    with override_settings(TASKS=named):
        (problem,) = default_task_backend.check()

    assert "nothing_like_this" in problem.msg
    assert default_task_backend.check() == []
