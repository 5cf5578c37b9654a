"""Durable functions: where they wait no worker holds them, and nothing that was done is done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from aiotq import AioTQ, FlowContext, Unique, chord
from aiotq.calling.publisher import KeyTaken
from aiotq.core.inside import core_of
from aiotq.core.values import replace
from aiotq.exceptions import (
    CallError,
    EventTimeout,
    FlowChanged,
    FlowEnded,
    FlowError,
    FlowNotFound,
    InvalidArguments,
    JournalFull,
    OperationalError,
    TaskRevokedError,
)
from aiotq.flows.journal import HEADER
from aiotq.wire.message import Envelope

from ..waiting import wait_until


async def test_a_flow_has_its_steps_sleeps_and_events_in_order_and_no_worker_holds_it(app: AioTQ) -> None:
    """Through two workers one after the other: what was done stays done, and signals that come early are kept."""
    ran: list[Any] = []

    @app.task(name="flows.charge")
    async def charge(number: int) -> int:
        ran.append(number)
        return number * 10

    @app.task(name="flows.broken", ignore_result=True)
    async def broken() -> None:
        raise ValueError("no")

    @app.flow(name="flows.order")
    async def order(ctx: FlowContext, number: int, *, more: int = 2) -> list[Any]:
        found: list[Any] = [await ctx.step(charge, number)]
        found += await asyncio.gather(*(ctx.step(charge, number + each) for each in range(1, more + 1)))
        await ctx.sleep(0.1)
        try:
            await ctx.step(broken)
        except ValueError as exc:
            found.append(str(exc))
        for _ in range(2):
            found.append(await ctx.event("shipped", timeout=60))
        try:
            await ctx.event("never", timeout=0.1)
        except EventTimeout:
            found.append("timeout")
        async with asyncio.TaskGroup() as group:
            last = [group.create_task(ctx.step(charge.s(each).set(priority=9))) for each in (7, 8)]
        return [*found, *(each.result() for each in last)]

    async with app:
        handle = await order.delay(1)
        await app.flows.signal(handle.id, "shipped", {"early": True}, signal_id="one")  # no worker has seen it yet
        await app.flows.signal(handle.id, "shipped", {"early": True}, signal_id="one")
        async with app.worker() as worker:

            async def waits() -> bool:
                said = await handle.info()
                return isinstance(said, dict) and said["waits_for"] == ["event shipped"]

            await wait_until(waits, "it waits for the second signal", 20)
            await wait_until(lambda: worker.running == 0, "no worker holds it", 20)
        async with app.worker():
            await app.flows.signal(handle.id, "shipped", "late")
            assert await handle.get(timeout=20) == [10, 20, 30, "no", {"early": True}, "late", "timeout", 70, 80]
        said = await app.flows.show(handle.id)
        graph = await handle.graph()
        with pytest.raises(FlowEnded):
            await app.flows.signal(handle.id, "shipped")
        with pytest.raises(FlowNotFound):
            await app.flows.signal("nobody", "shipped")
        await handle.forget()
        with pytest.raises(FlowNotFound):
            await app.flows.show(handle.id)

    assert sorted(ran) == [1, 2, 3, 7, 8]
    assert [each.state for each in said.parts] == [
        *("ended", "ended", "ended", "due", "failed", "signal", "signal", "due", "ended", "ended")
    ]
    assert len(graph.nodes) == 7
    assert {node.task for node in graph.nodes} == {"flows.order", "flows.charge", None}  # one has no result


async def test_a_flow_is_a_task_in_workflows_and_of_other_flows(app: AioTQ) -> None:
    @app.task(name="flows.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="flows.total")
    async def total(values: list[int]) -> int:
        return sum(values)

    @app.flow(name="flows.later")
    async def later(ctx: FlowContext, x: int, y: int = 1) -> int:
        await ctx.sleep(0.05)
        return await ctx.step(add, x, y)

    @app.flow(name="flows.outer")
    async def outer(ctx: FlowContext, x: int) -> int:
        return await ctx.step(later, x, 5)

    async with app, app.worker():
        chained = await (add.s(1, 2) | later.s(y=10) | add.s(100)).delay()
        counted = await chord([later.s(1), add.s(1, 1)], total.s()).delay()
        nested = await outer.delay(1)
        assert await chained.get(timeout=20) == 113
        assert await counted.get(timeout=20) == 4
        assert await nested.get(timeout=20) == 6


async def test_a_flow_that_fails_is_revoked_or_can_not_go_on_ends_once_with_the_reason(app: AioTQ) -> None:
    tries: list[int] = []
    called: list[str] = []
    steps = ["a"]

    @app.task(name="flows.one")
    async def one(name: str) -> str:
        return name

    @app.task(name="flows.large")
    async def large() -> str:
        return "x" * 1_100_000

    @app.task(name="flows.errback")
    async def errback(request: Any, exc: BaseException, traceback: str | None) -> None:
        called.append(type(exc).__name__)

    @app.flow(name="flows.retried", autoretry_for=(KeyError,), default_retry_delay=0, max_retries=2)
    async def retried(ctx: FlowContext) -> int:
        await ctx.step(one, "once")
        tries.append(1)
        if len(tries) < 3:
            raise KeyError("again")
        return len(tries)

    @app.flow(name="flows.changing")
    async def changing(ctx: FlowContext) -> None:
        for name in steps:
            await ctx.step(one.s(name) if name != "other" else errback.s(1, 2, 3))
        await ctx.event("go", timeout=60)

    @app.flow(name="flows.waiting")
    async def waiting(ctx: FlowContext, how: str) -> Any:
        match how:
            case "large":
                return await ctx.step(large)
            case "asyncio":
                await asyncio.sleep(1)
            case "nothing":
                await asyncio.get_running_loop().create_future()
            case "arguments":
                return await ctx.step(cast("Any", one), 1, 2)
        return await ctx.event("go", timeout=3600)

    async with app, app.worker():
        assert await (await retried.delay()).get(timeout=20) == 3
        changed = await changing.delay()
        revoked = await waiting.options(link_error=errback.s()).delay("event")

        def is_at(handle: Any) -> Callable[[], Any]:
            async def waits() -> bool:
                try:
                    said = await app.flows.show(handle.id)
                except FlowNotFound:  # one with callbacks is sent as a workflow is, without its journal
                    return False
                return [each.state for each in said.parts][-1:] == ["waits"]

            return waits

        for each in (changed, revoked):
            await wait_until(is_at(each), "it waits", 20)
        await app.flows.revoke(revoked.id)
        with pytest.raises(TaskRevokedError):
            await revoked.get(timeout=20)
        with pytest.raises(FlowEnded):
            await app.flows.signal(revoked.id, "go")
        await wait_until(lambda: called, "the error callback is called", 20)
        await wait_until(is_at(changed), "it waits", 20)
        steps[:] = ["other"]
        await app.flows.signal(changed.id, "go")
        with pytest.raises(FlowChanged, match=r"flows\.one as number 1.*asks for step flows\.errback"):
            await changed.get(timeout=20)
        for how, error in (
            ("large", JournalFull),
            ("asyncio", FlowError),
            ("nothing", FlowError),
            ("arguments", InvalidArguments),
        ):
            with pytest.raises(error):
                await (await waiting.delay(how)).get(timeout=20)

    assert called == ["TaskRevokedError"]
    assert len(tries) == 3


async def test_one_id_or_key_is_one_flow_until_it_has_ended(app: AioTQ) -> None:
    ran: list[int] = []

    @app.task(name="flows.counted")
    async def counted(number: int) -> int:
        ran.append(number)
        return number

    @app.flow(name="flows.named")
    async def named(ctx: FlowContext, number: int) -> int:
        await ctx.event("go", timeout=60)
        return await ctx.step(counted, number)

    @app.flow(name="flows.unique", unique=Unique(by="number"))
    async def unique(ctx: FlowContext, number: int) -> int:
        await ctx.event("go", timeout=60)
        return await ctx.step(counted, number)

    async with app, app.worker():
        for number in (1, 3):
            first, second = await asyncio.gather(*(named.options(task_id="mine").delay(number) for _ in range(2)))
            await app.flows.signal("mine", "go")
            assert first.id == second.id == "mine"
            assert await first.get(timeout=20) == number
        one, same = await unique.delay(7), await unique.delay(7)

        async def has_begun() -> bool:
            info = await one.info()
            return isinstance(info, dict) and info["waits_for"] == ["event go"]

        await wait_until(has_begun, "it waits", 20)
        await app.flows.signal(same.id, "go")
        assert await one.get(timeout=20) == 7
        assert one.id == same.id != (await unique.delay(7)).id

    assert ran == [1, 3, 7]


async def test_who_comes_next_sends_what_was_left_in_the_journal_and_what_comes_twice_counts_once(app: AioTQ) -> None:
    """The worker of the flow dies, as it were, when its journal is written and nothing is sent yet."""
    ran: list[int] = []
    left: list[bool] = []

    @app.task(name="flows.twice")
    async def noted(number: int) -> int:
        ran.append(number)
        return number

    @app.flow(name="flows.left")
    async def flow(ctx: FlowContext) -> list[Any]:
        first = await ctx.step(noted, 1)
        await ctx.sleep(0.05)
        return [first, await ctx.event("go", timeout=60), await ctx.step(noted, 2)]

    async with app:
        connection = await core_of(app).connection()
        publish = connection.publisher.publish

        async def publish_badly(envelopes: Sequence[Envelope], *how: Any) -> None:
            if len(how) == 5 and how[1] and not left:  # with joins, and the change of the journal
                await connection.ledger.change_schedules([replace(how[4], unsent=tuple(envelopes))])
                left.append(True)
                raise OperationalError("it died")
            waking = [each for each in envelopes if HEADER in (each.message.headers or {})]
            await publish([*envelopes, *waking], *how)

        connection.publisher.publish = publish_badly  # type: ignore[method-assign,assignment]
        async with app.worker():
            handle = await flow.delay()
            await wait_until(lambda: left, "the journal is written", 20)
            await app.flows.signal(handle.id, "go", "now")
            assert await handle.get(timeout=20) == [1, "now", 2]

    assert ran == [1, 2]


async def test_a_flow_that_is_called_here_is_refused(app: AioTQ) -> None:
    @app.flow(name="flows.here")
    async def here(ctx: FlowContext) -> None:
        await ctx.sleep(days=1)

    with pytest.raises(CallError, match="runs in a worker"):
        await here()
    with pytest.raises(CallError, match="runs in a worker"):
        await (await here.apply()).get()


async def test_a_flow_whose_acceptance_is_asked_for_again_once_it_has_begun_has_its_id(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost, the flow began and changed its row: to who asks again it is taken, by the same call."""

    @app.flow(name="flows.quick")
    async def quick(ctx: FlowContext) -> str:
        return f"done {ctx.id}"

    async with app, app.worker():
        publisher = (await core_of(app).connection()).publisher
        publish = publisher.publish

        async def asked_twice(*args: Any) -> None:
            await publish(*args)
            raise KeyTaken

        monkeypatch.setattr(publisher, "publish", asked_twice)
        result = await quick.delay()
        monkeypatch.undo()
        assert await result.get(timeout=30) == f"done {result.id}"
