"""Stamps: what tasks and results see of them, and revoking by them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from aiotq import AioTQ, Request, Signature, StampingVisitor, Task, chain, group
from aiotq.exceptions import CallError, EncodeError, InvalidOption, TaskRevokedError

from .canvas_tasks import Kit
from .conftest import MakeApp, Run


async def test_every_step_sees_its_stamps(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def told(self: Task[..., Any], *values: Any) -> list[Any]:
        return [*values, dict(self.request.stamps)]

    class Numbered(StampingVisitor):
        def on_signature(self, sig: Signature[Any], /, **headers: Any) -> Mapping[str, Any]:
            return {"step": sig.options["shadow"]}

    first, second, body = (told.s().set(shadow=name) for name in ("first", "second", "body"))
    flow = chain(first, group(second, second), body).stamp(Numbered(), flow=["a", 5])

    begun = [{"flow": ["a", 5], "step": ["first"]}]
    member = [begun, {"flow": ["a", 5], "step": ["second"]}]
    assert await run(flow) == [[member, member], {"flow": ["a", 5], "step": ["body"]}]


async def test_stamps_outlive_a_retry_and_a_snooze(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def again(self: Task[..., Any]) -> Any:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return dict(self.request.stamps)

    assert await run(again.s().stamp(ticket=7)) == {"ticket": [7]}


async def test_what_replaces_a_call_has_its_stamps_too(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def told(self: Task[..., Any]) -> Any:
        return dict(self.request.stamps)

    class Deeper(StampingVisitor):
        def on_signature(self, sig: Signature[Any], /, **headers: Any) -> Mapping[str, Any]:
            return {"level": 2}

    @kit.app.task(bind=True)
    async def becomes(self: Task[..., Any]) -> Any:
        raise self.replace(group(told.s().stamp(own=1), told.s()), Deeper())

    assert await run(becomes.s().stamp(level=1, root="x")) == [
        {"own": [1], "level": [1, 2], "root": ["x"]},
        {"level": [1, 2], "root": ["x"]},
    ]


async def test_callbacks_see_their_own_stamps_and_error_callbacks_those_of_what_failed(kit: Kit) -> None:
    seen: dict[str, Any] = {}
    done = asyncio.Event()

    @kit.app.task(bind=True)
    async def broken(self: Task[..., Any], request: Request, exc: BaseException, traceback: str | None) -> None:
        seen.update(own=dict(self.request.stamps), failed=dict(request.stamps), names=request.stamped_headers)
        done.set()

    class Visitor(StampingVisitor):
        def on_errback(self, errback: Any, /, **headers: Any) -> Mapping[str, Any]:
            return {"is_errback": True}

    async with kit.app, kit.app.worker():
        await kit.fail.s().link_error(broken.s()).stamp(Visitor(), a=1).delay()
        await asyncio.wait_for(done.wait(), 10)

    assert seen == {"own": {"a": [1], "is_errback": [True]}, "failed": {"a": [1]}, "names": ("a",)}


async def test_a_result_tells_its_stamps_where_results_are_extended(make_app: MakeApp) -> None:
    app = make_app(result_extended=True)

    @app.task
    async def step() -> None: ...

    async with app, app.worker():
        stamped, plain = await step.s().stamp(a=[1, "b"]).delay(), await step.delay()
        await stamped.get(timeout=10)
        await plain.get(timeout=10)
        assert await stamped.stamps() == {"a": [1, "b"]}
        assert await plain.stamps() is None


@pytest.mark.parametrize(
    ("revoked", "stamps", "is_revoked"),
    [
        ({"customer": 7}, {"customer": 7}, True),
        ({"customer": 7}, {"customer": [5, 7], "more": "x"}, True),
        ({"customer": [6, 7]}, {"customer": 7}, True),
        ({"customer": 7}, {"customer": "7"}, False),
        ({"customer": 7}, {"client": 7}, False),
        ({"a": 1, "b": {"x": [1], "y": 2}}, {"b": {"y": 2, "x": [1]}}, True),
    ],
)
async def test_calls_are_revoked_by_stamp(
    app: AioTQ, revoked: Mapping[str, Any], stamps: Mapping[str, Any], is_revoked: bool
) -> None:
    @app.task
    async def step() -> str:
        return "ran"

    async with app:
        before = await step.apply_async(stamps=stamps)
        await app.admin.revoke(stamps=revoked)
        later = await step.s().stamp(**stamps).delay()
        by_header = await step.apply_async(headers=stamps)
        async with app.worker():
            for result in (before, later):
                if is_revoked:
                    with pytest.raises(TaskRevokedError):
                        await result.get(timeout=10)
                else:
                    assert await result.get(timeout=10) == "ran"
            assert await by_header.get(timeout=10) == "ran", "headers are no stamps"


async def test_a_running_workflow_is_stopped_by_its_stamp_until_that_is_taken_back(app: AioTQ) -> None:
    began = asyncio.Event()

    @app.task
    async def hangs() -> None:
        began.set()
        await asyncio.Event().wait()

    @app.task
    async def step() -> str:
        return "ran"

    async with app, app.worker():
        flow = chain(hangs.si(), step.si()).stamp(run=5)
        last = await flow.delay()
        await asyncio.wait_for(began.wait(), 10)
        await app.admin.revoke(stamps={"run": 5}, terminate=True)
        with pytest.raises(TaskRevokedError):
            await last.get(timeout=10)
        await app.admin.unrevoke(stamps={"run": 5})
        assert await (await step.s().stamp(run=5).delay()).get(timeout=10) == "ran"


async def test_what_cannot_be_a_stamp_is_not_revoked(app: AioTQ) -> None:
    async with app:
        with pytest.raises(EncodeError, match="a header or stamp can't be so"):
            await app.admin.revoke(stamps={"a": object()})
        with pytest.raises(InvalidOption, match="stamps: a name is"):
            await app.admin.revoke(stamps={"": 1})
        with pytest.raises(CallError, match="nothing is named"):
            await app.admin.revoke(stamps={})
