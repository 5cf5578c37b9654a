"""Parameters with `Depends`: what a worker gives to a task beside its arguments."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from typing import Annotated, Any, Final, cast

import fastapi
import pytest
from fastapi.security import OAuth2PasswordBearer

from aiotq import INJECTED, AioTQ, AsyncResult, Depends, Ignore, current_task
from aiotq.exceptions import CallError, InvalidArguments, InvalidOption, SoftTimeLimitExceeded, TaskRevokedError
from aiotq.testing import TestWorker
from aiotq.worker.run import Cancelled
from tests.unit import injected_tasks
from tests.waiting import wait_until

#: What the dependencies below did, in order.
log: Final[list[str]] = []


class Session:
    def __init__(self) -> None:
        self.is_open = True


async def get_settings() -> dict[str, str]:
    log.append("settings")
    return {"name": "db"}


def get_engine(settings: Annotated[dict[str, str], Depends(get_settings)]) -> str:
    log.append(f"engine in {'a thread' if threading.current_thread() is not threading.main_thread() else 'the loop'}")
    return settings["name"]


async def get_session(engine: Annotated[str, fastapi.Depends(get_engine)]) -> AsyncIterator[Session]:
    session = Session()
    try:
        yield session
    except BaseException as exc:
        log.append(f"roll back {engine}: {type(exc).__name__}")
        raise
    else:
        log.append(f"commit {engine}")
    finally:
        session.is_open = False


def get_file() -> Iterator[str]:
    log.append("open")
    try:
        yield "file"
    finally:
        log.append("close")


class Repository:
    def __init__(self, session: Annotated[Session, Depends(get_session)], size: int = 7) -> None:
        self.session = session
        self.size = size


SessionDep = Annotated[Session, fastapi.Depends(get_session)]


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://")


async def test_a_task_gets_what_its_parameters_depend_on(app: AioTQ) -> None:
    """Async and plain functions, classes, nested ones, FastAPI's `Depends` and ours; each is made once a run."""

    @app.task
    async def work(
        session: SessionDep,
        x: int,
        repository: Annotated[Repository, Depends()],
        settings: dict[str, str] = fastapi.Depends(get_settings),
        *,
        y: int = 0,
        file: Annotated[str, Depends(get_file)],
    ) -> list[Any]:
        log.append("work")
        return [x, y, repository.session is session and session.is_open, repository.size, settings, file]

    async with TestWorker(app) as t:
        result: AsyncResult[Any] = await app.send_task(work.name, (1,), {"y": 2})
        assert await result == [1, 2, True, 7, {"name": "db"}, "file"]
        t.assert_ran(work, kwargs={"x": 1, "y": 2})

    assert log == ["settings", "engine in a thread", "open", "work", "close", "commit db"]


async def test_they_are_closed_before_the_outcome_is_stored_and_an_error_there_counts(app: AioTQ) -> None:
    seen: list[str] = []

    async def unit(fails: bool = False) -> AsyncIterator[str]:
        yield "unit"
        seen.append(await app.AsyncResult(current_task.request.id or "").state())
        if len(seen) < 3:
            raise ConnectionError("the commit failed")

    @app.task(autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=1)
    async def work(unit: str = Depends(unit)) -> str:
        return unit

    async with TestWorker(app) as t:
        result = await work.delay()
        await t.advance(minutes=1)
        assert await result == "unit"

    assert [state for state in seen if state == "SUCCESS"] == []
    assert len(seen) == 3  # two attempts failed in the dependency, and were retried


async def test_what_a_task_raises_is_raised_in_them_and_cannot_be_kept(app: AioTQ) -> None:
    async def keeps_it() -> AsyncIterator[None]:
        with suppress(ValueError):
            yield

    @app.task
    async def fails(session: SessionDep, error: str, kept: None = Depends(keeps_it)) -> None:
        raise ValueError(error) if error else Ignore

    async with TestWorker(app):
        result = await app.send_task(fails.name, ("wrong",))
        with pytest.raises(ValueError, match="wrong"):
            await result
        ignored = await app.send_task(fails.name, ("",))
        assert await ignored.get(propagate=False)

    assert [each for each in log if "roll" in each] == ["roll back db: ValueError", "roll back db: Ignore"]


async def test_an_error_in_one_that_is_made_fails_the_task_and_closes_the_others(app: AioTQ) -> None:
    def refuses(file: Annotated[str, Depends(get_file)]) -> None:
        raise ConnectionError(f"no {file}")

    @app.task
    def work(refused: None = Depends(refuses)) -> None:
        log.append("work")

    async with TestWorker(app):
        result = await work.delay()
        with pytest.raises(ConnectionError, match="no file"):
            await result

    assert log == ["open", "close"]


async def test_a_plain_function_gets_them_in_its_thread_or_from_the_loop(app: AioTQ) -> None:
    def here() -> Generator[int, None, None]:
        yield (ident := threading.get_ident())
        assert threading.get_ident() == ident

    @app.task
    def alone(ident: int = Depends(here)) -> bool:
        return ident == threading.get_ident() and threading.current_thread() is not threading.main_thread()

    @app.task
    def with_async(session: SessionDep = INJECTED, file: Annotated[str, Depends(get_file)] = INJECTED) -> bool:
        return session.is_open and threading.current_thread() is not threading.main_thread()

    async with TestWorker(app):
        assert await (await alone.delay())
        assert await (await with_async.delay())

    assert log[-2:] == ["close", "commit db"]


async def test_a_cancelled_run_closes_them_when_its_function_has_ended(app: AioTQ) -> None:
    began, may_end = threading.Event(), threading.Event()

    @app.task
    def in_a_thread(session: SessionDep = INJECTED) -> None:
        began.set()
        may_end.wait(10)
        log.append("ends open" if session.is_open else "ends closed")

    @app.task
    async def on_the_loop(session: SessionDep = INJECTED) -> None:
        began.set()
        await asyncio.sleep(60)

    async with app, app.worker() as worker:
        result = await on_the_loop.delay()
        await asyncio.to_thread(began.wait, 10)
        await result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            await result.get(timeout=10)
        assert log[-1] == "roll back db: CancelledError"
        began.clear()
        await in_a_thread.delay()
        await asyncio.to_thread(began.wait, 10)
        (run,) = worker.runs
        run.cancel(Cancelled.LEASE_LOST)
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        await wait_until(lambda: not worker.runs, "the run has ended")
        assert log[-2:] == ["ends open", "roll back db: CancelledError"]


async def test_time_limits_count_them_too(app: AioTQ) -> None:
    async def slow() -> AsyncGenerator[None, None]:
        await asyncio.sleep(60)
        yield

    @app.task(soft_time_limit=0.02)
    async def work(slow: None = Depends(slow)) -> None: ...

    async with TestWorker(app):
        with pytest.raises(SoftTimeLimitExceeded):
            await (await work.delay())


async def test_maps_share_them_and_apply_has_them(app: AioTQ) -> None:
    @app.task
    async def square(session: SessionDep, x: int) -> int:
        return x * x if session.is_open else -1

    async with TestWorker(app):
        assert await (await square.map([1, 2, 3]).delay()) == [1, 4, 9]
        assert log.count("settings") == 1
        assert await (await square.starmap([[4], [5]]).delay()) == [16, 25]
    assert await (await square.apply((3,))) == 9


async def test_a_worker_lifespan_is_a_dependency_of_all_runs(app: AioTQ) -> None:
    @app.worker_lifespan
    async def pool() -> AsyncIterator[object]:
        log.append("pool opens")
        yield "pool"

    @app.task
    async def coroutine(pool: object = Depends(pool)) -> object:
        return pool

    @app.task
    def function(pool: object = Depends(pool)) -> object:
        return pool

    async with TestWorker(app):
        assert [await (await coroutine.delay()), await (await function.delay())] == ["pool", "pool"]
        app.dependency_overrides[pool] = lambda: "another"
        assert [await (await coroutine.delay()), await (await function.delay())] == ["another", "another"]
    assert log == ["pool opens"]


async def test_overrides_hold_for_what_is_nested_and_use_cache_false_makes_another(app: AioTQ) -> None:
    counted: list[int] = []

    def count() -> int:
        counted.append(1)
        return len(counted)

    @app.task
    async def work(
        session: SessionDep,
        first: int = Depends(count),
        again: int = Depends(count),
        anew: int = Depends(count, use_cache=False),
    ) -> list[int]:
        return [first, again, anew]

    async def other(add: int = Depends(count)) -> dict[str, str]:
        return {"name": f"other {add}"}

    app.dependency_overrides[get_settings] = other
    async with TestWorker(app):
        assert await (await app.send_task(work.name)) == [1, 1, 2]
    assert log[-1] == "commit other 1"

    app.dependency_overrides[get_settings] = asking_for(get_settings)
    async with TestWorker(app):
        with pytest.raises(InvalidOption, match="asks for itself"):
            await (await app.send_task(work.name))


def asking_for(dependency: Callable[..., Any]) -> Callable[..., Any]:
    def override(original: Any = Depends(dependency)) -> Any:
        return original

    return override


async def test_a_process_task_makes_them_in_the_child(app: AioTQ) -> None:
    async with TestWorker(injected_tasks.app):
        assert await (await injected_tasks.function.delay(2)) == [2, "plain", True]
        assert await (await injected_tasks.coroutine.delay(3)) == [3, "async plain", True]
        injected_tasks.app.dependency_overrides[injected_tasks.plain] = str
        try:
            with pytest.raises(CallError, match="where dependency_overrides has nothing for plain"):
                await (await injected_tasks.function.delay(2))
        finally:
            injected_tasks.app.dependency_overrides.clear()


def test_they_are_no_arguments_of_calls(app: AioTQ) -> None:
    def passing_on(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return wrapper

    @app.task
    async def work(session: SessionDep, x: int, y: int = 0) -> int:
        return x + y

    wrapped = app.task(name="wrapped")(passing_on(injected_tasks.late))

    work.check((1, 2), {})
    assert work.parameter(0) == "x"
    assert work.room_for((1,), {}) == 1
    with pytest.raises(InvalidArguments, match=r"work\(x: 'int', y: 'int' = 0\): missing a required argument: 'x'"):
        work.check((), {})
    for task in (work, wrapped):
        with pytest.raises(InvalidArguments, match="the worker gives 'session'; a call can't"):
            task.check((1,), {"session": None})
    assert wrapped.dependencies is not None
    assert app.task(injected_tasks.awaited_later).dependencies is None
    with pytest.raises(CallError, match="a worker gives this parameter its value"):
        INJECTED.execute("select 1")


def of_request(request: fastapi.Request) -> None: ...
def of_header(x_user: Annotated[str, fastapi.Header()]) -> None: ...
def of_old_header(x_user: str = fastapi.Header()) -> None: ...
def of_default_header(x_user: Annotated[str, fastapi.Header()] = "nobody") -> None: ...
def of_query(page: int) -> None: ...
def of_login(token: Annotated[str, Depends(OAuth2PasswordBearer("token"))]) -> None: ...


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        (Depends(of_request), "parameter 'request' of dependency of_request comes from an HTTP request"),
        (Depends(of_header), "'x_user' of dependency of_header comes from an HTTP request"),
        (Depends(of_old_header), "'x_user' of dependency of_old_header comes from an HTTP request"),
        (Depends(of_default_header), "'x_user' of dependency of_default_header comes from an HTTP request"),
        (Depends(of_query), "'page' of dependency of_query has no Depends and no default"),
        (Depends(of_login), "'request' of dependency <.*> comes from an HTTP request"),
        (Depends("text"), "Depends takes a function or a class, not 'text'"),  # type: ignore[arg-type]
        (Depends(), r"takes the class of the annotation, and .*int . str"),
    ],
)
def test_what_a_worker_cannot_give_is_refused_at_the_declaration(app: AioTQ, marker: Any, text: str) -> None:
    async def work(given: Any = marker) -> None: ...

    work.__annotations__["given"] = Annotated[int | str, "note"]
    with pytest.raises(InvalidOption, match=text):
        app.task(work)


def test_what_cannot_be_placed_is_refused_at_the_declaration(app: AioTQ) -> None:
    def before_all(session: SessionDep, *args: int) -> None: ...
    def by_place(session: SessionDep, /) -> None: ...
    def in_a_process(session: SessionDep) -> None: ...
    def unknown(x: Annotated[Nowhere, Depends(get_session)]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @app.worker_lifespan
    async def pool() -> AsyncIterator[None]:
        yield

    async def of_a_worker(pool: Any = Depends(pool)) -> None: ...

    for function, run, text in (
        (before_all, None, "'args': what is injected must stand after it"),
        (by_place, None, "'session': what is injected is given by name"),
        (in_a_process, "process", "no loop in it for an async dependency"),
        (of_a_worker, "process", "a child process has no worker lifespans"),
        (unknown, None, "'x': its annotation .* can't be evaluated"),
    ):
        with pytest.raises(InvalidOption, match=text):
            app.task(run=cast(Any, run))(function)
