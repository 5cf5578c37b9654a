"""The types of the public API, as users meet them. Never run: mypy and pyright read it in `make lint`.

An error that must be one is marked as ignored. Both checkers heed that mark, and each says so where it is not needed.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any, assert_type

import fastapi

from aiotq import (
    INJECTED,
    AioTQ,
    AsyncResult,
    Canvas,
    Chord,
    Debounce,
    Depends,
    EagerResult,
    Fair,
    FlowContext,
    Graph,
    Group,
    GroupResult,
    Limit,
    Progress,
    RateLimit,
    ResultSet,
    Signature,
    Stream,
    SyncGroupResult,
    SyncResult,
    SyncResultSet,
    Task,
    Throttle,
    Unique,
    Update,
    WorkerLifespan,
    chain,
    chord,
    crontab,
    group,
    interval,
    once,
    shared_task,
    signature,
)
from aiotq.beat.manage import PeriodicTask
from aiotq.results.stream_reader import ChunkStream
from aiotq.tasks.streams import Streamed
from aiotq.tasks.task import CoroutineTask, FunctionTask, StreamTask

app = AioTQ("typing", broker="memory://")


# What a worker opens


@app.worker_lifespan
async def from_a_generator() -> AsyncGenerator[int, None]:
    yield 1


@app.worker_lifespan
async def from_an_iterator() -> AsyncIterator[int]:
    yield 1


@app.worker_lifespan
@asynccontextmanager
async def from_a_manager() -> AsyncGenerator[str, None]:
    yield "x"


assert_type(from_a_generator, WorkerLifespan[int])
assert_type(from_an_iterator.value, int)
assert_type(from_a_manager.value, str)


# Declaring


@app.task
async def add(x: int, y: int = 0) -> int:
    return x + y


@app.task()
async def add_parentheses(x: int, y: int = 0) -> int:
    return x + y


@app.task(queue="hi", priority=9, acks_late=False)
async def add_options(x: int, y: int = 0) -> int:
    return x + y


@app.task
def double(x: float) -> float:
    return 2 * x


@app.task(run="process")
def double_in_a_process(x: float) -> float:
    return 2 * x


@app.task(bind=True)
async def bound(self: Any, x: int) -> str:
    return f"{self.request.id}: {x}"


@app.task(bind=True, queue="hi")
def bound_plain(self: Task[[int], str], x: int) -> str:
    return f"{self.request.id}: {x}"


@shared_task
async def shared(x: int) -> int:
    return x


@shared_task(queue="hi")
def shared_plain(x: int) -> int:
    return x


@shared_task(bind=True)
async def shared_bound(self: Any, x: int) -> int:
    return x


@app.task
async def nothing() -> None: ...


def not_a_task(x: int) -> int:
    return x


app.task(que="hi")(not_a_task)  # type: ignore[call-overload]
app.task(priority="9")(not_a_task)  # type: ignore[call-overload]


# Being the function


async def calling_it_is_calling_the_function() -> None:
    _ = assert_type(add(1, 2), Coroutine[Any, Any, int])
    assert_type(await add(1, y=2), int)
    assert_type(await add_parentheses(1), int)
    assert_type(await add_options(1), int)
    assert_type(double(1.5), float)
    assert_type(double_in_a_process(1.5), float)
    assert_type(await bound(1), str)
    assert_type(bound_plain(1), str)
    assert_type(await shared(1), int)
    assert_type(shared_plain(1), int)
    assert_type(await shared_bound(1), int)

    add("1")  # type: ignore[arg-type, unused-coroutine]
    double("1")  # type: ignore[arg-type]


# Calling


async def delay_takes_what_the_function_takes() -> None:
    assert_type(await add.delay(1, 2), AsyncResult[int])
    assert_type(await add.delay(1, y=2), AsyncResult[int])
    assert_type(await add_parentheses.delay(1), AsyncResult[int])
    assert_type(await add_options.delay(1), AsyncResult[int])
    assert_type(await double.delay(1.5), AsyncResult[float])
    assert_type(await bound.delay(1), AsyncResult[str])
    assert_type(await bound_plain.delay(1), AsyncResult[str])
    assert_type(await shared.delay(1), AsyncResult[int])
    assert_type(await shared_plain.delay(1), AsyncResult[int])
    assert_type(await shared_bound.delay(1), AsyncResult[int])
    assert_type(await nothing.delay(), AsyncResult[None])

    await add.delay("1")  # type: ignore[arg-type]
    await add.delay(1, 2, 3)  # type: ignore[call-arg]
    await add.delay()  # type: ignore[call-arg]
    await add.delay(1, z=2)  # type: ignore[call-arg]
    await double.delay("1")  # type: ignore[arg-type]
    await bound.delay("1")  # type: ignore[arg-type]
    await bound.delay(None, 1)  # type: ignore[call-arg, arg-type]
    await shared.delay("1")  # type: ignore[arg-type]


async def a_forgotten_await_is_flagged() -> None:
    add.delay(1)  # type: ignore[unused-coroutine]
    add.options(queue="hi").delay(1)  # type: ignore[unused-coroutine]
    add.apply_async((1,))  # type: ignore[unused-coroutine]
    app.send_task("x")  # type: ignore[unused-coroutine]
    add(1)  # type: ignore[unused-coroutine]


async def options_are_typed() -> None:
    assert_type(await add.options(countdown=1.5, priority=9).delay(1), AsyncResult[int])
    assert_type(await add.options(queue="hi").delay(1, y=2), AsyncResult[int])
    assert_type(await add.apply_async((1,), {"y": 2}, countdown=1, expires=60.0), AsyncResult[int])
    assert_type(await add.apply((1,)), EagerResult[int])
    assert_type(await (await add.apply((1,))), int)

    add.options(que="hi")  # type: ignore[call-arg]
    add.options(priority="9")  # type: ignore[arg-type]
    await add.options(queue="hi").delay("1")  # type: ignore[arg-type]
    await add.apply_async((1,), que="hi")  # type: ignore[call-arg]


async def a_call_by_name_may_return_anything() -> None:
    assert_type(await app.send_task("other.task", (1,), queue="hi"), AsyncResult[Any])


async def many_calls_have_a_list_of_results() -> None:
    results = await app.send_many(add.s(i) for i in range(10))
    assert_type(results, ResultSet[int])
    assert_type(await results, list[int])
    assert_type(results[0], AsyncResult[int])
    assert_type(results[1:], ResultSet[int])
    assert_type(await results.get(timeout=5), list[int])
    assert_type(await results.get(propagate=False), list[int | BaseException])
    async for result in results.as_completed():
        assert_type(result, AsyncResult[int])
        assert_type(await result, int)
    assert_type(await results.completed_count(), int)


async def signatures_know_what_they_return() -> None:
    assert_type(add.s(1), Signature[int])
    assert_type(bound.si(1), Signature[str])
    assert_type(double.signature((1.5,), queue="hi"), Signature[float])
    assert_type(add.s(1).set(queue="hi").clone((2,)), Signature[int])
    assert_type(add.options(queue="hi").s(1), Signature[int])
    assert_type(await add.s(1).delay(), AsyncResult[int])
    assert_type(app.signature("other.task"), Signature[Any])


# Workflows


async def a_chain_is_what_its_last_step_is() -> None:
    assert_type(add.s(1) | bound.s(), Canvas[AsyncResult[str]])
    assert_type(add.s(1) | bound.s() | double.s(), Canvas[AsyncResult[float]])
    assert_type(chain(add.s(1), bound.s()), Canvas[AsyncResult[str]])
    assert_type(chain(add.s(1), add.s(1), double.s()), Canvas[AsyncResult[float]])
    assert_type(chain(add.s(i) for i in range(3)), Canvas[Any])
    assert_type(add.s(1) | group(bound.s(), bound.s()), Canvas[GroupResult[str]])
    result = await (add.s(1) | bound.s()).delay()
    assert_type(result, AsyncResult[str])
    assert_type(await result, str)
    assert_type(await (add.s(1) | bound.s()).apply_async(priority=9), AsyncResult[str])
    assert_type(await (add.s(1) | bound.s()).apply(), AsyncResult[str])


async def a_group_is_a_list_of_what_its_members_are() -> None:
    assert_type(group(add.s(1), add.s(2)), Group[int])
    assert_type(group(add.s(i) for i in range(3)), Group[int])
    assert_type(group([add.s(1), add.s(2)]), Group[int])
    assert_type(group(add.s(1), add.s(1) | add.s(2)), Group[int])
    result = await group(add.s(i) for i in range(3)).delay()
    assert_type(result, GroupResult[int])
    assert_type(await result, list[int])
    assert_type(await result.get(timeout=5), list[int])
    assert_type(await result.join(propagate=False), list[int | BaseException])
    assert_type(await result.ready(), bool)
    assert_type(await result.completed_count(), int)
    assert_type(await group(add.s(1)).apply(), GroupResult[int])
    assert_type(await result.graph(), Graph)
    assert_type((add.s(1) | add.s()).graph(), Graph)
    async for now in result.progress():
        assert_type(now, Progress)
    assert_type(len(result), int)
    async for member in result.as_completed():
        assert_type(member, AsyncResult[Any])


async def a_chord_is_what_its_body_is() -> None:
    assert_type(group(add.s(1), add.s(2)) | bound.s(), Canvas[AsyncResult[str]])
    assert_type(chord([add.s(1)], bound.s()), Chord[AsyncResult[str]])
    assert_type(chord((add.s(i) for i in range(3)), bound.s()), Chord[AsyncResult[str]])
    assert_type(chord([add.s(1)], bound.s() | double.s()), Chord[AsyncResult[float]])
    assert_type(chord([add.s(1)], group(add.s(), add.s())), Chord[GroupResult[int]])
    assert_type(await (await chord([add.s(1)], bound.s()).delay()), str)
    assert_type(await chord(add.s(i) for i in range(3))(bound.s()), AsyncResult[str])


async def a_canvas_stays_what_it_is_when_something_is_said_of_it() -> None:
    assert_type(add.s(1).link(bound.s()).on_error(bound.s()).allow_failure("skip"), Signature[int])
    assert_type(group(add.s(1)).allow_failure("continue"), Group[int])
    assert_type(chord([add.s(1)], bound.s()).set(queue="hi").link(add.s()), Chord[AsyncResult[str]])
    assert_type(add.map([1, 2]), Signature[list[int]])
    assert_type(add.starmap([(1, 2)]), Signature[list[int]])
    assert_type(await (await add.chunks([(1, 2)], 1).delay()), list[list[int]])
    assert_type(add.chunks([(1, 2)], 1).group(), Group[list[int]])
    assert_type(signature("other.task"), Canvas[Any])

    add.s(1).allow_failure("ignore")  # type: ignore[arg-type]
    add.s(1) | 5  # type: ignore[operator]
    add.s(1).delay()  # type: ignore[unused-coroutine]


def workflows_without_a_loop() -> None:
    assert_type((add.s(1) | bound.s()).sync.delay(), SyncResult[str])
    assert_type(add.s(1).sync.apply_async(priority=9).get(timeout=5), int)
    assert_type(group(add.s(1)).sync.delay(), SyncGroupResult[int])
    assert_type(group(add.s(1)).sync.delay().get(), list[int])
    assert_type(chord([add.s(1)], bound.s()).sync.delay().get(), str)


def code_without_a_loop() -> None:
    assert_type(add.sync.delay(1), SyncResult[int])
    assert_type(add.sync.delay(1).get(timeout=5), int)
    assert_type(add.options(queue="hi").sync.delay(1, y=2), SyncResult[int])
    assert_type(double.sync.apply_async((1.5,), countdown=1), SyncResult[float])
    assert_type(add.sync.delay(1).state, str)
    assert_type(add.sync.delay(1).date_done, datetime | None)
    assert_type(add.sync.delay(1).updates(), Iterator[Update])
    assert_type(add.sync.apply((1,)), SyncResult[int])
    assert_type(group(add.s(1)).sync.apply(), SyncGroupResult[int])
    assert_type(app.sync(app.send_many, [add.s(1)]).sync, SyncResultSet[int])
    assert_type(app.sync(app.send_many, [add.s(1)]).sync[0].get(), int)
    assert_type(app.sync(app.send_many, [add.s(1)]).sync[1:].join(), list[int])

    add.sync.delay("1")  # type: ignore[arg-type]


# Results


async def results_are_awaited() -> None:
    result = await add.delay(1)
    assert_type(result.id, str)
    assert_type(await result, int)
    assert_type(await result.get(), int)
    assert_type(await result.get(timeout=5), int)
    assert_type(await result.get(propagate=False), int | BaseException)
    assert_type(await result.state(), str)
    assert_type(await result.ready(), bool)
    assert_type(await result.traceback(), str | None)
    assert_type(result.sync, SyncResult[int])
    async for update in result.updates():
        assert_type(update, Update)

    result + 1  # type: ignore[operator]
    result.get()  # type: ignore[unused-coroutine]


def a_coroutine_and_a_function_are_told_apart() -> None:
    takes_coroutine_task(add)
    takes_function_task(double)
    takes_any_task(add)
    takes_any_task(bound_plain)
    takes_function_task(add)  # type: ignore[arg-type]


def takes_coroutine_task(task: CoroutineTask[..., Any]) -> None: ...
def takes_function_task(task: FunctionTask[..., Any]) -> None: ...
def takes_any_task(task: Task[..., Any]) -> None: ...


async def an_app_and_a_worker_are_entered() -> None:
    async with app as entered, app.worker(queues=["hi"], concurrency=5) as worker:
        assert_type(entered, AioTQ)
        assert_type(worker.running, int)

    app.worker(concurency=5)  # type: ignore[call-arg]


# Periodic tasks


async def what_is_periodic_keeps_its_type() -> None:
    assert_type(await app.periodic(crontab(hour=7), args=(1,), misfire="all")(add).delay(1), AsyncResult[int])
    assert_type(app.add_periodic_task(timedelta(minutes=1), add.s(1), overlap="skip", jitter=5), str)
    assert_type(app.add_periodic_task(interval(60, aligned=True), add.s(1) | add.s(2), priority=9), str)
    assert_type(app.add_periodic_task(once("2030-01-01T00:00:00Z"), group(add.s(1)), expires=None), str)
    assert_type(await app.schedules.list(), Sequence[PeriodicTask])
    assert_type(await app.schedules.fire("name"), AsyncResult[Any])
    assert_type((await app.schedules.get("name")).next_due, datetime | None)

    app.add_periodic_task(60, add.s(1), overlap="maybe")  # type: ignore[arg-type]
    app.add_periodic_task(60, add.s(1), mis_fire="all")  # type: ignore[call-arg]
    app.add_periodic_task("often", add.s(1))  # type: ignore[arg-type]
    app.add_periodic_task(60, "proj.add")  # type: ignore[arg-type]


# Depending


class Session: ...


async def get_session() -> AsyncIterator[Session]:
    yield Session()


@app.task
async def injected(
    x: int,
    session: Annotated[Session, Depends(get_session)] = INJECTED,
    older: Session = Depends(get_session),
    theirs: Annotated[Session, fastapi.Depends(get_session)] = INJECTED,
    pool: Annotated[int, Depends(from_a_generator)] = INJECTED,
) -> int:
    return x


@app.task
async def injected_without_default(x: int, session: Annotated[Session, Depends(get_session)]) -> int:
    return x


async def depending() -> None:
    assert_type(await injected.delay(1), AsyncResult[int])
    await injected.delay("1")  # type: ignore[arg-type]
    await injected_without_default.delay(1)  # type: ignore[call-arg]
    assert_type(await injected(1, Session()), int)
    app.dependency_overrides[get_session] = Session


# Which calls run, and when


def shard(user_id: int) -> int:
    return user_id % 8


@app.task(
    unique=Unique(by="user_id", until="started", on_conflict="replace"),
    rate_limit=(RateLimit("100/m", key=("user_id",), burst=10), RateLimit(5)),
    max_concurrency=Limit(3, key=shard, name="shards"),
)
async def limited(user_id: int) -> str:
    return str(user_id)


@app.task(throttle=60, fair_key="user_id")
async def throttled(user_id: int) -> str:
    return str(user_id)


async def flow_control() -> None:
    assert_type(await limited.delay(1), AsyncResult[str])
    assert_type(await limited.options(unique=Unique(until=60.0)).delay(1), AsyncResult[str])
    assert_type(await throttled.options(debounce=Debounce(5, by="user_id", max_wait=30)).delay(1), AsyncResult[str])
    assert_type(await throttled.options(fair_key=Fair("user_id", weights={"7": 2})).delay(1), AsyncResult[str])
    assert_type(await throttled.options(throttle=Throttle(60), idempotency_key=None).delay(1), AsyncResult[str])
    await limited.options(idempotency_key=17).delay(1)  # type: ignore[arg-type]
    assert_type(await app.admin.unblock((await app.block(limited, where={"user_id": 7})).id), int)


# Streams


@app.task
async def said(words: int) -> AsyncIterator[str]:
    yield "word" * words


@app.task(bind=True, stream=Stream(rerun="repeat"))
async def said_again(self: Task[..., Any], words: int) -> AsyncIterator[str]:
    yield "word" * words


@shared_task
async def said_everywhere() -> AsyncIterator[int]:
    yield 1


async def streams() -> None:
    assert_type(said_everywhere, StreamTask[[], int])
    assert_type(said(1), AsyncIterator[str])
    result = await said.delay(1)
    assert_type(result, AsyncResult[Streamed[str]])
    assert_type(result.stream(after="1.2"), ChunkStream[str])
    assert_type([chunk async for chunk in result.stream()], list[str])
    assert_type(list(result.sync.stream()), list[str])
    assert_type((await said_again.delay(1)).stream(), ChunkStream[str])
    await said_again.delay("1")  # type: ignore[arg-type]
    assert_type([chunk async for chunk in (await said.options(queue="hi").delay(1)).stream("now")], list[str])
    await said.delay("1")  # type: ignore[arg-type]
    async for chunk in app.AsyncResult("1").stream():
        assert_type(chunk, Any)


# Batches


# Durable functions


@app.task
async def charged(order: int, *, currency: str = "EUR") -> str:
    return f"{order} {currency}"


@app.flow
async def ordered(ctx: FlowContext, order: int, note: str = "") -> list[str]:
    assert_type(await ctx.step(charged, order, currency="USD"), str)
    assert_type(await ctx.step(charged.s(order)), str)
    assert_type(await ctx.sleep(days=2), None)
    await ctx.step(charged, "7")  # type: ignore[call-overload]
    return []


@app.flow(queue="slow")
async def slowly(ctx: FlowContext) -> int:
    assert_type(await ctx.step(ordered, 1, note="x"), list[str])
    return 1


async def flows() -> None:

    assert_type(await (await slowly.delay()), int)
    await ordered.delay("7")  # type: ignore[arg-type]
    await app.flows.signal("7", "shipped", {"at": 1}, signal_id="x")


@app.batch(size=10, within=1.0)
async def lengths(texts: list[str]) -> list[int]:
    return list(map(len, texts))


@app.batch(size=10, within=1.0)
async def some_lengths(texts: list[str]) -> list[int | Exception]:
    return [len(text) or ValueError("empty") for text in texts]


@app.batch(size=10, within=1.0)
async def no_length(texts: list[str]) -> None: ...


async def batches() -> None:
    assert_type(await lengths.delay("a"), AsyncResult[int])
    assert_type(await some_lengths.delay("a"), AsyncResult[int])
    assert_type(await no_length.delay("a"), AsyncResult[None])
    await lengths.delay(1)  # type: ignore[arg-type]
    assert_type(await lengths.batch_function(["a"]), Sequence[int | Exception] | None)


# Long tasks


@app.task(bind=True)
async def walk(self: Task[..., Any]) -> None:
    async for number in self.cursor([1, 2], key=int):
        assert_type(number, int)
    async for text in self.cursor(lambda last: ["a"], key="id"):
        assert_type(text, str)
    await self.checkpoint({"epoch": 1})
