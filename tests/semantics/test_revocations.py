"""Revoking many calls at once: all of a task, all with a header, a whole workflow; now and for workers to come (P8)."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from typing import Any

import pytest

from aiotq import AioTQ, chain, group
from aiotq.exceptions import CallError, EncodeError, InvalidOption, TaskError, TaskRevokedError

from ..waiting import wait_until
from .conftest import ALSO_ON_SQS, MakeApp

BROKERS_HERE = ALSO_ON_SQS


async def test_all_calls_of_a_task_are_revoked_and_no_others(app: AioTQ) -> None:
    ran: list[str] = []

    @app.task(name="bad")
    async def bad() -> None:
        ran.append("bad")

    @app.task(name="badly")
    async def badly() -> str:
        return "ran"

    async with app:
        before = [await bad.delay(), await bad.apply_async(countdown=0.3)]
        other = await badly.delay()
        await app.admin.revoke(tasks=["bad"])
        async with app.worker():
            later = await bad.delay()
            for each in (*before, later):
                with pytest.raises(TaskRevokedError):
                    await each.get(timeout=10)
            assert await other.get(timeout=10) == "ran"
    assert not ran


@pytest.mark.parametrize(
    ("revoked", "has", "has_not"),
    [
        ({"customer": 7}, {"customer": 7, "more": "x"}, {"customer": "7"}),
        ({"tags": {"a": 1, "b": [2]}}, {"tags": {"b": [2], "a": 1}}, {"tags": {"a": 1}}),
        ({"a": 1, "b": 2}, {"b": 2}, {"b": 1}),
    ],
)
async def test_all_calls_with_a_header_are_revoked(
    app: AioTQ, revoked: Mapping[str, Any], has: Mapping[str, Any], has_not: Mapping[str, Any]
) -> None:
    @app.task
    async def step() -> str:
        return "ran"

    async with app:
        await app.admin.revoke(headers=revoked)
        gone, stays, plain = (
            await step.apply_async(headers=has),
            await step.apply_async(headers=has_not),
            await step.delay(),
        )
        async with app.worker():
            with pytest.raises(TaskRevokedError):
                await gone.get(timeout=10)
            assert await stays.get(timeout=10) == await plain.get(timeout=10) == "ran"


async def test_a_whole_workflow_is_revoked_by_its_root_while_it_runs(app: AioTQ) -> None:
    ran: list[str] = []
    began = asyncio.Event()

    @app.task
    async def first() -> str:
        ran.append("first")
        return "first"

    @app.task
    async def hangs(_: str) -> None:
        began.set()
        await asyncio.Event().wait()

    @app.task
    async def never(_: Any = None) -> None:
        ran.append("never")

    async with app, app.worker():
        flow = chain(first.s(), group(hangs.s(), never.s().set(countdown=5.0)), never.s())
        last = await flow.delay()
        await asyncio.wait_for(began.wait(), 10)
        assert last.parent is not None
        assert last.parent.parent is not None
        await app.admin.revoke(roots=[last.parent.parent.id], terminate=True)

        assert isinstance(await last.get(timeout=10, propagate=False), TaskError)  # revoked, or one before it was
        other = await first.delay()
        assert await other.get(timeout=10) == "first"
    assert ran == ["first", "first"]


async def test_a_running_coroutine_stops_within_a_tenth_of_a_second_however_it_was_named(app: AioTQ) -> None:
    began = asyncio.Event()
    stopped: list[float] = []
    seconds: list[float] = []

    @app.task(name="hangs")
    async def hangs() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(time.monotonic())

    async with app, app.worker():
        ways: list[dict[str, Any]] = [{"tasks": ["hangs"]}, {"headers": {"kind": "x"}}, {}]
        for named in ways * 3:
            began.clear()
            result = await hangs.apply_async(headers={"kind": "x"})
            await asyncio.wait_for(began.wait(), 10)
            ids = () if named else (result.id,)
            revoked_at = time.monotonic()
            await app.admin.revoke(*ids, **named, terminate=True)
            with pytest.raises(TaskRevokedError):
                await result.get(timeout=10)
            seconds.append(stopped.pop() - revoked_at)
            await app.admin.unrevoke(*ids, **named)
    # A machine that does other things beside may hold up some of them, but not most.
    assert statistics.median(seconds) < 0.1


async def test_it_holds_for_workers_that_start_later_and_until_it_expires_or_is_taken_back(make_app: MakeApp) -> None:
    app, other = make_app(), make_app()

    async def step() -> str:
        return "ran"

    tasks = [each.task(name="step")(step) for each in (app, other)]

    async with app, other:
        await app.admin.revoke(tasks=["step"])
        revoked = await tasks[0].delay()
        async with other.worker():
            with pytest.raises(TaskRevokedError):
                await revoked.get(timeout=10)
            await app.admin.unrevoke(tasks=["step"])
            assert await (await tasks[0].delay()).get(timeout=10) == "ran"
            await app.admin.revoke(tasks=["step"], expires=0.2)

            async def runs_again() -> bool:
                ended = await tasks[0].delay()
                await ended.get(timeout=10, propagate=False)
                return await ended.successful()

            await wait_until(runs_again, "it has expired")


async def test_many_ids_are_revoked_together(app: AioTQ) -> None:
    @app.task
    async def step() -> None: ...

    async with app:
        results = await app.send_many(step.s() for _ in range(3))
        await app.admin.revoke(*(each.id for each in results[:2]))
        async with app.worker():
            await results[2].get(timeout=10)
            for each in results[:2]:
                with pytest.raises(TaskRevokedError):
                    await each.get(timeout=10)


@pytest.mark.parametrize(
    ("named", "error", "text"),
    [
        ({}, CallError, "nothing is named"),
        ({"tasks": "proj.add"}, InvalidOption, r"tasks is a list of names: \['proj.add'\]"),
        ({"roots": [""]}, InvalidOption, "roots must be strings of 1 to 255 printable characters, not ''"),
        ({"tasks": ["a\tb"]}, InvalidOption, "printable"),
        ({"headers": {"a": object()}}, EncodeError, "a header or stamp can't be so"),
        ({"tasks": ["a"], "expires": 0}, InvalidOption, "expires must be seconds, more than 0, not 0"),
        ({"tasks": ["a"], "expires": -1.5}, InvalidOption, "not -1.5"),
    ],
)
async def test_what_names_nothing_is_refused(named: dict[str, Any], error: type[Exception], text: str) -> None:
    app = AioTQ("x", broker="memory://")
    with pytest.raises(error, match=text):
        await app.admin.revoke(**named)
