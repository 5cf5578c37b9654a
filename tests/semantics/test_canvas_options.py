"""Options of steps: when, where and how each is sent, and what middleware and signals see of a workflow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import AsyncResult, Middleware, OutgoingCall, Task, chain, chord, group, signals
from aiotq.calling.middleware import Sending
from aiotq.canvas import as_form
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError

from .canvas_tasks import Kit
from .conftest import MakeApp, Run
from .hearing import Heard


class Point:
    """What only pickle can carry."""

    def __init__(self, x: int) -> None:
        self.x = x


async def test_a_countdown_of_a_group_delays_each_member_and_a_bodys_counts_from_the_header(kit: Kit, run: Run) -> None:
    began = time.time()

    @kit.app.task
    async def now(*_: Any) -> float:
        return time.time() - began

    @kit.app.task
    async def later(values: list[float]) -> list[float]:
        return [*values, time.time() - began]

    header = group(now.s(), now.s()).set(countdown=0.3)
    first, second, body = await run(header | later.s().set(countdown=0.3))

    assert min(first, second) >= 0.3
    assert body >= max(first, second) + 0.29


async def test_a_later_step_starts_at_its_eta(kit: Kit, run: Run) -> None:
    @kit.app.task
    async def now(_: Any) -> float:
        return time.time()

    eta = datetime.now(UTC) + timedelta(seconds=0.4)
    assert await run(kit.add.s(1, 1) | now.s().set(eta=eta)) >= eta.timestamp() - 0.001
    eta = datetime.now(UTC) + timedelta(seconds=0.4)
    assert await run(group(kit.add.s(1, 1)) | now.s().set(eta=eta)) >= eta.timestamp() - 0.001


async def test_a_body_expires_after_its_header(kit: Kit, run: Run) -> None:
    header = group(kit.add.s(1, 1).set(countdown=0.2))

    assert await run(header | kit.xsum.s().set(expires=5.0)) == 2, "what it waited before does not count"

    late = (
        await chord([kit.add.s(1, 1)], kit.note_task.s().set(countdown=0.3, expires=0.1))
        .on_error(kit.old_broken.s())
        .delay()
    )
    await late.get(timeout=10, propagate=False)
    assert await late.state() == "REVOKED"
    assert await kit.has_noted(1) == [late.id]


async def test_options_reach_the_steps_they_are_of(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def told(self: Task[..., Any], *_: Any) -> Any:
        request = self.request
        return [request.delivery_info["priority"], dict(request.headers), list(request.timelimit)]

    assert await run(chain(told.si(), told.si()).set(priority=9)) == [4, {}, [None, None]]
    assert await run(chain(told.si(), told.si().set(priority=9, headers={"n": 1}))) == [9, {"n": 1}, [None, None]]
    members = await run(group(told.s(), told.s()).set(priority=8, soft_time_limit=7.0))
    assert members == [[8, {}, [None, 7.0]]] * 2
    result: Any = await chord([told.s()], told.s()).apply_async(headers={"n": 2}, task_id="of the body")
    assert result.id == "of the body"
    assert (await result.get(timeout=10))[1] == (await result.parent.get(timeout=10))[0][1] == {"n": 2}


async def test_each_step_has_its_own_serializer(make_app: MakeApp) -> None:
    app = make_app(accept_content=["json", "pickle", "msgpack", "yaml"], result_serializer="pickle")
    kit = Kit(app)

    @app.task
    async def point(x: int) -> Any:
        return Point(x)

    @app.task
    async def read(point: Any, *more: Any) -> int:
        return int(point.x + sum(each.x for each in more))

    async with app, app.worker():
        for serializer in ("msgpack", "yaml", "pickle"):
            canvas = kit.add.s(1, 1) | kit.add.s(1).set(serializer=serializer) | kit.add.s(1)
            assert await (await canvas.delay()).get(timeout=10) == 4
        # What only a later step's serializer can write is no burden to the first one's message.
        canvas = point.s(1) | read.s(Point(2)).set(serializer="pickle")
        assert await (await canvas.delay()).get(timeout=10) == 3
        canvas = group(point.s(1), point.s(2)) | kit.echo.s() | kit.xsum.map([[1]])
        assert await (await canvas.delay()).get(timeout=10) == [1]


async def test_signed_workflows_run_and_those_that_were_not_signed_do_not(make_app: MakeApp) -> None:
    app = make_app(security_key="a secret of sixteen letters")
    kit = Kit(app)
    canvas = chain(
        kit.add.s(1, 1),
        group(kit.add.s(1), kit.flaky.s(), kit.add.s(2).set(countdown=0.05)),
        kit.xsum.s().set(countdown=0.05),
        *(kit.add.s(0) for _ in range(60)),  # more than a message carries
    ).link(kit.note_task.s())
    async with app, app.worker():
        result: Any = await canvas.delay()
        assert await result.get(timeout=20) == 9
        assert await kit.has_noted(1) == [(9,)]
        failed = await chord([kit.fail.s()], kit.xsum.s()).on_error(kit.old_broken.s()).delay()
        await failed.get(timeout=10, propagate=False)
        assert await kit.has_noted(2) == [(9,), failed.id]


class Stamping(Middleware):
    """Marks what is sent, and notes how much at once."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
        self.sent.append([call.task for call in calls])
        return await forward([call.with_headers(stamp=7) for call in calls])


@pytest.mark.parametrize("eagerly", [False, True])
async def test_middleware_sees_what_a_workflow_begins_with_and_may_change_it(make_app: MakeApp, eagerly: bool) -> None:
    app = make_app(task_always_eager=eagerly)
    kit, stamping = Kit(app), Stamping()
    app.add_middleware(stamping)

    @app.task(bind=True)
    async def stamp(self: Task[..., Any], *_: Any) -> Any:
        return self.request.headers.get("stamp")

    async with app, app.worker():
        result: Any = await chord([stamp.s(), stamp.s() | stamp.s()], kit.echo.s()).link(kit.note_task.s()).delay()
        assert await result.get(timeout=10) == [[7, None]]
        await kit.has_noted(1)
    assert stamping.sent == [[stamp.name, stamp.name]]


async def test_middleware_that_keeps_a_workflow_back_is_told(make_app: MakeApp) -> None:
    class Keeping(Middleware):
        async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
            return [AsyncResult("none", app) for _ in calls]

    app = make_app()
    kit = Kit(app)
    app.add_middleware(Keeping())
    async with app:
        with pytest.raises(CallError, match="middleware kept back what"):
            await (kit.add.s(1, 1) | kit.add.s(1)).delay()


async def test_receivers_of_before_task_publish_see_first_steps_and_change_them(
    kit: Kit, run: Run, heard: Heard
) -> None:
    def double(signal: Any, sender: Any, body: Any, headers: dict[str, Any], **_: Any) -> None:
        args, _, _ = body
        args[:] = [2 * each for each in args]
        headers["doubled"] = True

    heard.listen(signals.after_task_publish)
    signals.before_task_publish.connect(double)
    try:
        canvas = (group(kit.add.s(1, 1), kit.add.s(2, 2)) | kit.xsum.s()).link(kit.note_task.s())
        assert await run(canvas) == 12
    finally:
        signals.before_task_publish.disconnect(double)
    assert [sender for _, sender, _ in heard.told] == ["add", "add"]


async def test_a_task_is_replaced_where_it_stood(kit: Kit, run: Run) -> None:
    """Order, callbacks, error callbacks, id: as though the replacement had always stood there."""
    put = kit.replaced.si

    def form(canvas: Any) -> Any:
        return as_form(canvas)

    assert await run(put(form(kit.add.s(2, 2)))) == 4
    assert await run(put(form(group(kit.add.s(1, 1), kit.add.s(2, 2)))) | kit.xsum.s()) == 6
    first = put(form(kit.add.s(0, 1) | kit.add.s(1)))
    assert await run(group(first, kit.add.s(5, 5)) | kit.echo.s()) == [[2, 10]]
    assert await run(put(form(put(form(chord([kit.add.s(1, 1)], kit.xsum.s())))))) == 2

    result: Any = await put(form(kit.add.s(1, 1))).link(kit.note_task.s("called")).apply_async(task_id="kept")
    assert result.id == "kept"
    assert await result.get(timeout=10) == 2
    await put(form(kit.fail.s() | kit.add.s(1))).on_error(kit.note_task.si("told")).delay()
    assert sorted(await kit.has_noted(2), key=str) == [("told",), (2, "called")]


async def test_members_that_are_added_come_after_the_others(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def adding(self: Task[..., Any], *more: int) -> str:
        for each in more:
            await self.add_to_chord(kit.add.s(each, each))
        return "adding"

    assert await run(chord([adding.s(10, 20), kit.add.s(1, 1)], kit.echo.s())) == [["adding", 2, 20, 40]]
    assert await run(chord([group(adding.s(10)), kit.add.s(1, 1)], kit.echo.s())) == [[["adding"], 2, 20]]
    long = chain(adding.si(10), *(kit.add.si(1, 1) for _ in range(60)))
    assert await run(chord([long, kit.add.s(3, 3)], kit.echo.s())) == [[2, 6, 20]]


async def test_what_cannot_be_added_fails_the_task_that_adds_it(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def adding(self: Task[..., Any]) -> None:
        await self.add_to_chord(kit.add.s(1))

    result: Any = await chord([adding.s()], kit.echo.s()).delay()
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        await result.parent[0].get(timeout=10)
    assert await result.get(timeout=10, propagate=False) is not None

    alone = await adding.delay()
    with pytest.raises(CallError, match=r"add_to_chord: the running task is not in the header of a chord"):
        await alone.get(timeout=10)


async def test_plain_functions_do_all_that_in_threads(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    def adding(self: Task[..., Any], number: int) -> int:
        self.sync.add_to_chord(kit.add.s(number, number))
        return number

    @kit.app.task(bind=True)
    def becoming(self: Task[..., Any], number: int) -> int:
        raise self.replace(kit.add.s(number, number))

    assert await run(chord([adding.s(10), becoming.s(2)], kit.echo.s())) == [[10, 4, 20]]


async def test_code_without_a_loop_sends_workflows_to_workers(kit: Kit, run: Run) -> None:
    def send() -> Any:
        result: Any = (kit.add.s(2, 2) | group(kit.add.s(1), kit.add.s(2)) | kit.xsum.s()).sync.delay()
        return result.get(timeout=10), result.parent.get(timeout=10), result.parent.parent.get(timeout=10)

    assert await asyncio.to_thread(send) == (11, [5, 6], 4)
    await asyncio.to_thread(core_of(kit.app).bridge.stop)
