"""Task classes: handlers around runs, options as attributes, classes as tasks; and what tasks leave behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aiotq import AioTQ, ExceptionInfo, Task
from aiotq.exceptions import InvalidOption

from ..waiting import wait_until
from .conftest import NOT_ON_RABBITMQ, MakeApp

BROKERS_HERE = NOT_ON_RABBITMQ

Seen = list[tuple[Any, ...]]


def noting(seen: Seen, *, with_coroutines: bool) -> type[Task[..., Any]]:
    """Return a task class whose handlers note that they were called."""

    class Noting(Task[..., Any]):
        def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            seen.append(("before_start", task_id, tuple(args), dict(kwargs), self.request.id))

        def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            seen.append(("on_success", retval))

        def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo) -> None:
            seen.append(("on_retry", type(exc), einfo.type, "Traceback" in str(einfo)))

        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo) -> None:
            seen.append(("on_failure", type(exc), einfo.exception is exc))

        def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo | None
        ) -> None:
            seen.append(("after_return", status, einfo is not None))

    class Awaiting(Noting):
        async def on_success(  # type: ignore[override]
            self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
        ) -> None:
            seen.append(("on_success", retval))

    return Awaiting if with_coroutines else Noting


@pytest.mark.parametrize("with_coroutines", [False, True])
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_handlers_are_called_around_a_run(app: AioTQ, kind: str, with_coroutines: bool) -> None:
    seen: Seen = []
    base = noting(seen, with_coroutines=with_coroutines)

    async def double(x: int, *, more: int = 0) -> int:
        return 2 * x + more

    def double_in_thread(x: int, *, more: int = 0) -> int:
        return 2 * x + more

    fn: Any = double if kind == "coroutine" else double_in_thread
    task: Any = app.task(base=base)(fn)

    async with app, app.worker():
        result = await task.delay(3, more=1)
        assert await result.get(timeout=10) == 7
    assert seen == [
        ("before_start", result.id, (3,), {"more": 1}, result.id),
        ("on_success", 7),
        ("after_return", "SUCCESS", False),
    ]


async def test_handlers_of_retries_and_failures_get_the_exception(app: AioTQ) -> None:
    seen: Seen = []
    base = noting(seen, with_coroutines=False)

    @app.task(base=base, autoretry_for=(OSError,), max_retries=1, default_retry_delay=0)
    async def fail() -> None:
        raise ConnectionError("down")

    async with app, app.worker():
        with pytest.raises(ConnectionError):
            await (await fail.delay()).get(timeout=10)
    assert [each for each in seen if each[0] != "before_start"] == [
        ("on_retry", ConnectionError, ConnectionError, True),
        ("on_failure", ConnectionError, True),
        ("after_return", "FAILURE", True),
    ]


async def test_what_a_handler_raises_changes_nothing(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise ZeroDivisionError

    @app.task(base=Clumsy)
    async def fine() -> int:
        return 1

    async with app, app.worker():
        assert await (await fine.delay()).get(timeout=10) == 1
    assert f"on_success of task {fine.name} failed" in caplog.text


async def test_what_before_start_raises_fails_the_task(app: AioTQ) -> None:
    class Guarded(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise PermissionError("not you")

    @app.task(base=Guarded)
    async def never() -> None:
        raise AssertionError

    async with app, app.worker():
        with pytest.raises(PermissionError, match="not you"):
            await (await never.delay()).get(timeout=10)


async def test_options_of_a_class_hold_unless_the_declaration_says_otherwise(app: AioTQ) -> None:
    class Patient(Task[..., Any]):
        autoretry_for = (OSError,)
        max_retries = 7
        queue = "slow"

    class MorePatient(Patient):
        max_retries = 9

    @app.task(base=MorePatient, queue="fast")
    async def task() -> None: ...

    assert task.declared.autoretry_for == (OSError,)
    assert (task.max_retries, task.declared.max_retries) == (9, 9)
    assert task.declared.queue == "fast"
    assert isinstance(task, MorePatient)


async def test_the_apps_task_class_is_that_of_tasks_which_name_none(make_app: MakeApp) -> None:
    class Ours(Task[..., Any]):
        max_retries = 1

        def hello(self) -> str:
            return f"hello from {self.name}"

    app = make_app(task_cls=Ours)

    @app.task(bind=True, name="greet")
    async def greet(self: Any) -> str:
        return str(self.hello())

    assert greet.max_retries == 1
    async with app, app.worker():
        assert await (await greet.delay()).get(timeout=10) == "hello from greet"


async def test_a_class_with_run_is_a_task(app: AioTQ) -> None:
    class Add(Task[..., Any]):
        name = "classes.add"
        priority = 7

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.calls = 0

        async def run(self, x: int, y: int) -> list[int]:
            self.calls += 1
            return [x + y, self.calls, self.request.delivery_info["priority"]]

    add: Any = app.register_task(Add)

    assert add.name == "classes.add"
    async with app, app.worker():
        assert await (await add.delay(2, 3)).get(timeout=10) == [5, 1, 7]
        assert await (await add.delay(2, 4)).get(timeout=10) == [6, 2, 7]


def test_a_class_that_can_not_be_a_task_is_refused(app: AioTQ) -> None:
    class Idle(Task[..., Any]): ...

    class Heavy(Task[..., Any]):
        run = "process"

    with pytest.raises(InvalidOption, match=r"needs a method run"):
        app.register_task(Idle)
    with pytest.raises(InvalidOption):
        app.register_task(Heavy)
    with pytest.raises(InvalidOption, match="must be a subclass of"):
        app.task(base=dict)(test_a_class_that_can_not_be_a_task_is_refused)  # type: ignore[arg-type]


def test_a_class_is_told_the_app_it_belongs_to(app: AioTQ) -> None:
    bound: list[Any] = []

    class Told(Task[..., Any]):
        @classmethod
        def on_bound(cls, app: Any) -> None:
            bound.append(app)

    @app.task(base=Told)
    async def task() -> None: ...

    assert bound == [app]


async def test_expected_exceptions_are_one_line_of_the_log(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(throws=(KeyError,))
    async def lookup() -> None:
        raise KeyError("nobody")

    caplog.set_level("INFO")
    async with app, app.worker():
        with pytest.raises(KeyError):
            await (await lookup.delay()).get(timeout=10)
    (line,) = [record for record in caplog.records if "expected" in record.message]
    assert line.levelname == "INFO"
    assert line.exc_info is None


async def test_failures_are_kept_although_results_are_ignored(app: AioTQ) -> None:
    @app.task(ignore_result=True, store_errors_even_if_ignored=True)
    async def work(fails: bool) -> None:
        if fails:
            raise LookupError("kept")

    async with app, app.worker() as worker:
        failed, fine = await work.delay(True), await work.delay(False)
        await wait_until(lambda: worker.completed == 2, "both ran")
        assert await app.AsyncResult(failed.id).state() == "FAILURE"
        assert await app.AsyncResult(fine.id).state() == "PENDING"


async def test_the_calls_a_task_makes_are_the_children_of_its_result(app: AioTQ) -> None:
    @app.task
    async def leaf() -> None: ...

    @app.task
    async def parent() -> list[str]:
        sent = [await leaf.delay(), await leaf.options(add_to_parent=False).delay()]
        sent += list(await app.send_many([leaf.s(), leaf.s()]))
        return [each.id for each in sent]

    @app.task(trail=False)
    async def forgetful() -> None:
        await leaf.delay()

    async with app, app.worker():
        result = await parent.delay()
        first, _, *others = await result.get(timeout=10)
        assert [child.id for child in await result.children()] == [first, *others]
        result_of_forgetful = await forgetful.delay()
        await result_of_forgetful.get(timeout=10)
        assert await result_of_forgetful.children() == []


async def test_a_call_may_have_another_name_in_logs(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    def by_argument(args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        return f"greet {args[0]}"

    @app.task(shadow_name=by_argument, resultrepr_maxsize=5)
    async def greet(name: str) -> str:
        return f"hello {name}"

    caplog.set_level("INFO")
    async with app, app.worker():
        result = await greet.delay("you")
        await result.get(timeout=10)
    assert f"Task greet you[{result.id}] succeeded" in caplog.text
    assert "'hell\n" in caplog.text


async def test_functions_of_threads_have_their_request(app: AioTQ) -> None:
    @app.task(bind=True)
    def where(self: Task[..., Any]) -> list[object]:
        request = self.request
        return [request.correlation_id == request.id, request.utc, threading.current_thread().name[:5]]

    async with app, app.worker():
        assert await (await where.delay()).get(timeout=10) == [True, True, "AnyIO"]


async def test_a_task_that_is_cancelled_in_its_handlers_has_ended(app: AioTQ) -> None:
    began = asyncio.Event()

    class Slow(Task[..., Any]):
        async def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            began.set()
            await asyncio.Event().wait()

    @app.task(base=Slow)
    async def one() -> int:
        return 1

    async with app, app.worker():
        result = await one.delay()
        async with asyncio.timeout(10):
            await began.wait()
        await result.revoke(terminate=True)
        assert await result.get(timeout=10) == 1


async def test_a_handler_that_exits_ends_nothing(app: AioTQ) -> None:
    class Exiting(Task[..., Any]):
        async def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            raise SystemExit(3)

    @app.task(base=Exiting)
    async def one() -> int:
        return 1

    async with app, app.worker():
        assert await (await one.delay()).get(timeout=10) == 1
        assert await (await one.delay()).get(timeout=10) == 1
