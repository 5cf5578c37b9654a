"""Middleware round the sending of calls and round the running of tasks."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, Middleware, OutgoingCall, RunningCall, Task, signals
from aiotq.calling.middleware import Running, Sending
from aiotq.exceptions import CallError, InvalidOption, TimeLimitExceeded

from .conftest import NOT_ON_RABBITMQ
from .hearing import Heard

BROKERS_HERE = NOT_ON_RABBITMQ

trace_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("trace_id", default=None)


class Tracing(Middleware):
    """Carries a trace id from a caller to its tasks, and from them to those that they call."""

    async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
        return await forward([call.with_headers(trace=trace_id.get()) for call in calls])

    async def run(self, call: RunningCall, forward: Running) -> Any:
        trace_id.set(call.headers.get("trace"))
        return await forward(call)


async def test_a_trace_id_goes_from_the_caller_to_the_task_and_on(app: AioTQ) -> None:
    app.add_middleware(Tracing())

    @app.task
    def leaf() -> str | None:
        return trace_id.get()

    @app.task
    async def branch() -> list[str | None]:
        one = await leaf.delay()
        many = await app.send_many([leaf.s(), leaf.s()])
        return [trace_id.get(), await one.get(timeout=10), *await many.get(timeout=10)]

    token = trace_id.set("t-42")
    try:
        async with app, app.worker():
            result = await branch.options(headers={"user": 3}).delay()
            assert await result.get(timeout=20) == ["t-42"] * 4
    finally:
        trace_id.reset(token)


class Noting(Middleware):
    """Notes what it sees on the way in and on the way out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
        self.notes.append(f"{self.name} sends {len(calls)}")
        sent = await forward([call.with_arguments(*call.args, self.name) for call in calls])
        self.notes.append(f"{self.name} sent")
        return sent

    async def run(self, call: RunningCall, forward: Running) -> Any:
        self.notes.append(f"{self.name} begins")
        try:
            return [self.name, await forward(call)]
        finally:
            self.notes.append(f"{self.name} ends")


async def test_what_was_added_first_is_outermost(app: AioTQ) -> None:
    notes: list[str] = []
    app.add_middleware(Noting("outer", notes))
    app.add_middleware(Noting("inner", notes))

    @app.task
    async def show(*args: str) -> list[str]:
        return list(args)

    async with app:
        results = await app.send_many([show.s("a"), show.s("b")])
        async with app.worker(concurrency=1):
            values = await results.get(timeout=10)
    # The outer one changed the arguments first, and the value last.
    assert values[0] == ["outer", ["inner", ["a", "outer", "inner"]]]
    assert notes[:4] == ["outer sends 2", "inner sends 2", "inner sent", "outer sent"]
    assert notes[4:8] == ["outer begins", "inner begins", "inner ends", "outer ends"]


async def test_middleware_may_answer_for_the_task(app: AioTQ) -> None:
    ran: list[int] = []

    class Cache(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            return "cached" if call.request.args == (1,) else await forward(call)

    app.add_middleware(Cache())

    @app.task
    async def compute(x: int) -> str:
        ran.append(x)
        return "computed"

    async with app, app.worker():
        assert await (await compute.delay(1)).get(timeout=10) == "cached"
        assert await (await compute.delay(2)).get(timeout=10) == "computed"
    assert ran == [2]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_middleware_may_swallow_an_exception_or_raise_another(app: AioTQ, heard: Heard, kind: str) -> None:
    class Translating(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            try:
                return await forward(call)
            except FileNotFoundError:
                return "no file"
            except OSError as exc:
                raise RuntimeError("translated") from exc

    app.add_middleware(Translating())

    def fail(name: str) -> None:
        raise {"file": FileNotFoundError, "os": OSError, "value": ValueError}[name](name)

    async def fail_on_the_loop(name: str) -> None:
        fail(name)

    fn: Any = fail if kind == "thread" else fail_on_the_loop
    task: Any = app.task(fn)
    heard.listen(signals.task_success, signals.task_failure)
    async with app, app.worker():
        assert await (await task.delay("file")).get(timeout=10) == "no file"
        with pytest.raises(RuntimeError, match="translated"):
            await (await task.delay("os")).get(timeout=10)
        with pytest.raises(ValueError, match="value"):
            await (await task.delay("value")).get(timeout=10)
    assert heard.names == ["task_success", "task_failure", "task_failure"]


async def test_middleware_times_runs_and_sees_retries_pass(app: AioTQ) -> None:
    seen: list[tuple[str, float]] = []

    class Timing(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            began = time.perf_counter()
            how = "returned"
            try:
                return await forward(call)
            except Exception as exc:
                how = type(exc).__name__
                raise
            finally:
                seen.append((f"{call.request.retries} {how}", time.perf_counter() - began))

    app.add_middleware(Timing())

    @app.task(bind=True)
    async def flaky(self: Task[..., Any], x: int) -> int:
        await asyncio.sleep(0.02)
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return x

    async with app, app.worker():
        assert await (await flaky.delay(3)).get(timeout=10) == 3
    assert [how for how, _ in seen] == ["0 Retry", "1 returned"]
    assert min(seconds for _, seconds in seen) >= 0.015


session: contextvars.ContextVar[Session | None] = contextvars.ContextVar("session", default=None)


class Session:
    def __init__(self) -> None:
        self.is_open = True


class InSession(Middleware):
    """Opens a session round each run, for the task and its `before_start`."""

    def __init__(self) -> None:
        self.all: list[Session] = []

    async def run(self, call: RunningCall, forward: Running) -> Any:
        opened = Session()
        self.all.append(opened)
        token = session.set(opened)
        try:
            return await forward(call)
        finally:
            session.reset(token)
            opened.is_open = False


async def test_a_session_round_each_run_is_there_on_the_loop_and_in_threads(app: AioTQ) -> None:
    sessions = InSession()
    app.add_middleware(sessions)
    at_the_start: list[bool] = []

    class Checking(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            at_the_start.append(session.get() is not None)

    @app.task(base=Checking)
    async def on_the_loop() -> bool:
        await asyncio.sleep(0)
        return (current := session.get()) is not None and current.is_open

    @app.task
    def in_a_thread() -> bool:
        return (current := session.get()) is not None and current.is_open

    async with app, app.worker():
        results = await app.send_many([on_the_loop.s(), in_a_thread.s(), on_the_loop.s()])
        assert await results.get(timeout=10) == [True, True, True]
    assert at_the_start == [True, True]
    assert [each.is_open for each in sessions.all] == [False] * 3
    assert session.get() is None


async def test_arguments_that_middleware_adds_are_not_those_of_a_retry(app: AioTQ) -> None:
    class Injecting(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            return await forward(call.with_arguments(*call.request.args, session=object()))

    app.add_middleware(Injecting())

    @app.task(bind=True)
    async def use(self: Task[..., Any], x: int, session: object = None) -> list[Any]:
        if self.request.retries == 0:
            raise self.retry(countdown=0)  # an object() could not be sent
        return [x, session is not None, sorted(self.request.kwargs)]

    async with app, app.worker():
        assert await (await use.delay(3)).get(timeout=10) == [3, True, ["session"]]


async def test_middleware_sees_a_hard_time_limit_as_the_caller_does(app: AioTQ) -> None:
    seen: list[str] = []

    class Watching(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            try:
                return await forward(call)
            except Exception as exc:
                seen.append(type(exc).__name__)
                raise

    app.add_middleware(Watching())

    @app.task(time_limit=0.05)
    async def sleep() -> None:
        await asyncio.sleep(60)

    async with app, app.worker():
        with pytest.raises(TimeLimitExceeded):
            await (await sleep.delay()).get(timeout=10)
    assert seen == ["TimeLimitExceeded"]


async def test_a_revoked_run_is_cancelled_through_its_middleware(app: AioTQ) -> None:
    running = asyncio.Event()
    sessions = InSession()
    app.add_middleware(sessions)

    @app.task
    async def wait() -> None:
        running.set()
        await asyncio.Event().wait()

    async with app, app.worker():
        result = await wait.delay()
        await running.wait()
        await result.revoke(terminate=True)
        await result.get(timeout=10, propagate=False)
        assert await result.state() == "REVOKED"
    assert [each.is_open for each in sessions.all] == [False]


async def test_middleware_may_refuse_a_call(app: AioTQ) -> None:
    class Quota(Middleware):
        async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
            raise PermissionError("quota exceeded")

    app.add_middleware(Quota())

    @app.task
    async def nothing() -> None: ...

    async with app:
        with pytest.raises(PermissionError, match="quota"):
            await nothing.delay()
        assert not await app.admin.queues()


async def test_what_middleware_forwards_is_checked_as_any_call(app: AioTQ) -> None:
    class Spoiling(Middleware):
        async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
            return await forward([calls[0].with_options(priority=11)])

    class Forgetting(Middleware):
        async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Any:
            await forward(calls)

    app.add_middleware(Forgetting())

    @app.task
    async def nothing() -> None: ...

    async with app:
        with pytest.raises(CallError, match="return await forward"):
            await nothing.delay()
        app.add_middleware(Spoiling())
        with pytest.raises(InvalidOption, match="priority"):
            await nothing.delay()


@pytest.mark.parametrize("made", [object(), Middleware, Tracing])
def test_what_is_no_middleware_is_refused(app: AioTQ, made: Any) -> None:
    with pytest.raises(InvalidOption):
        app.add_middleware(made)
