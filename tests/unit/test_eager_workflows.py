"""Workflows that run where they are made: `apply`, and `task_always_eager`; with no broker at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    ChordError,
    EagerResult,
    Exchange,
    GroupResult,
    Ignore,
    Queue,
    Reject,
    Signature,
    Task,
    TaskIgnored,
    chain,
    chord,
    group,
)
from aiotq.exceptions import CallError, DeadLettered, InvalidArguments, InvalidOption, NotRegistered


class Proj:
    """An app whose broker is not to be reached, and its tasks; `called` notes what was called."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("broker_url", "redis://no.such.host.invalid:1")
        self.app = app = AioTQ("proj", **settings)
        self.called: list[Any] = []

        @app.task(name="add")
        async def add(x: int, y: int) -> int:
            self.called.append(("add", x, y))
            return x + y

        @app.task(name="xsum")
        def xsum(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="note")
        async def note(*args: Any) -> None:
            self.called.append(args)

        @app.task(name="fail")
        async def fail(*args: Any) -> None:
            raise ValueError("no luck")

        @app.task(name="told")
        async def told(request: Any, exc: BaseException, traceback: str) -> None:
            self.called.append((request.id, type(exc), "in fail" in traceback))

        @app.task(name="ignoring")
        async def ignoring() -> None:
            raise Ignore

        @app.task(name="becoming", bind=True)
        async def becoming(self: Task[..., Any], count: int) -> Any:
            if count:
                raise self.replace(becoming.s(count - 1))
            return [self.request.id, self.request.root_id, self.request.parent_id]

        self.add, self.xsum, self.note, self.fail, self.told = add, xsum, note, fail, told
        self.ignoring, self.becoming = ignoring, becoming


@pytest.fixture
def proj() -> Proj:
    return Proj()


@pytest.fixture
def eager() -> Proj:
    return Proj(task_always_eager=True)


async def test_workflows_run_at_once_where_calls_do(eager: Proj) -> None:
    result: Any = await (eager.add.s(1, 1) | group(eager.add.s(1), eager.add.s(2)) | eager.xsum.s()).delay()

    assert isinstance(result, EagerResult)
    assert await result == 7
    assert (await result.state(), await result.ready(), await result.successful()) == ("SUCCESS", True, True)
    assert isinstance(result.parent, GroupResult)
    assert await result.parent == [3, 4]
    assert isinstance(result.parent.parent, EagerResult)
    assert await result.parent.parent == 2
    assert await (await eager.add.apply_async((2, 2), link=eager.note.s())) == 4
    assert eager.called[-1] == (4,)
    assert await (await eager.app.send_task("add", (2, 2), link=eager.note.s("by name"))) == 4


async def test_a_group_that_ran_here_is_used_as_any_other(proj: Proj) -> None:
    result: Any = await group(proj.add.s(1, 1), group(proj.fail.s()), proj.fail.s().allow_failure("skip")).apply()

    assert isinstance(result, GroupResult)
    assert (await result.ready(), await result.waiting(), await result.completed_count()) == (True, False, 1)
    assert (await result.successful(), await result.failed()) == (False, True)
    assert [member.id async for member in result.as_completed()] == [member.id for member in result.members]
    values: list[Any] = await result.join(propagate=False)
    value, (error,) = values
    assert (value, type(error)) == (2, ValueError)
    with pytest.raises(ValueError, match="no luck"):
        await result
    await result.revoke()
    await result.forget()
    assert await (await group([]).apply()) == []


async def test_a_failure_leads_to_where_it_was_raised(proj: Proj) -> None:
    result: Any = await (proj.fail.s() | proj.note.s() | proj.note.s()).apply()

    for each in (result, result.parent, result.parent.parent):
        assert await each.state() == "FAILURE"
        with pytest.raises(ValueError, match="no luck") as raised:
            await each
        assert raised.traceback[-1].name == "fail"
    assert "in fail" in str(await result.parent.parent.traceback())
    assert proj.called == []


async def test_what_a_workflow_ends_with_is_raised_if_asked_when_all_of_it_has_run(proj: Proj) -> None:
    failing = chain(proj.fail.s(), proj.note.s()).link_error(proj.note.si("told"))

    with pytest.raises(ValueError, match="no luck"):
        await failing.apply(throw=True)
    assert proj.called == [("told",)]
    with pytest.raises(ChordError, match=r"raised ValueError\('no luck'\)"):
        await chord([proj.fail.s()], proj.xsum.s()).apply(throw=True)
    with pytest.raises(ValueError, match="no luck"):
        await group(proj.add.s(1, 1), proj.fail.s()).apply(throw=True)
    dealt_with = await (proj.fail.s().allow_failure("continue") | proj.note.s()).apply(throw=True)
    assert await dealt_with.successful()

    propagating = Proj(task_always_eager=True, task_eager_propagates=True)
    with pytest.raises(ValueError, match="no luck"):
        await (propagating.add.s(1, 1) | propagating.fail.s()).delay()
    assert await (await propagating.fail.s().apply(throw=False)).failed()


async def test_one_task_has_its_callbacks(proj: Proj) -> None:
    assert await (await proj.add.apply((1, 1), link=[proj.note.s("a"), proj.note.si("b")])) == 2
    failed = await proj.fail.apply((1,), link=proj.note.s(), link_error=proj.told.s())

    assert proj.called[1:] == [(2, "a"), ("b",), (failed.id, ValueError, True)]
    with pytest.raises(ValueError, match="no luck"):
        await proj.fail.apply(throw=True, link_error=proj.note.si("told"))
    assert proj.called[-1] == ("told",)


async def test_how_a_callback_fails_is_in_the_log(proj: Proj, caplog: pytest.LogCaptureFixture) -> None:
    assert await (await proj.add.s(1, 1).link(proj.fail.s()).apply(throw=True)) == 2

    assert "Task fail[" in caplog.text
    assert "ValueError: no luck" in caplog.text


async def test_a_task_that_is_replaced_again_and_again_keeps_its_id_and_its_place(proj: Proj) -> None:
    often = await proj.becoming.apply((500,), task_id="kept")
    assert often.id == "kept"
    assert await often == ["kept", "kept", None]


async def test_retries_follow_at_once_and_change_nothing(proj: Proj) -> None:
    tries: list[int] = []

    @proj.app.task(bind=True, autoretry_for=(OSError,), retry_backoff=600)
    async def fetch(self: Task[..., Any], x: int) -> int:
        tries.append(self.request.retries)
        if self.request.retries < 2:
            raise OSError("not yet")
        return x

    async with asyncio.timeout(5):
        canvas = proj.add.s(1, 1) | group(fetch.s(), fetch.s()) | proj.xsum.s()
        assert await (await canvas.apply()) == 4
    assert sorted(tries) == [0, 0, 1, 1, 2, 2]


async def test_times_and_places_have_no_meaning_here_but_are_refused_if_just_given(proj: Proj) -> None:
    later = (
        proj.add.s(1, 1).set(countdown=3600, queue="away", expires=5)
        | group(proj.add.s(1))
        | proj.xsum.s().set(countdown=3600, expires=1)
    )
    async with asyncio.timeout(5):
        assert await (await later.apply()) == 3

    options: dict[str, Any] = {"countdown": 1, "queue": "hi", "expires": 1}
    for option, given in options.items():
        with pytest.raises(InvalidOption, match=rf"\.apply: {option} is for calls that are sent"):
            await later.apply(**{option: given})


async def test_a_call_that_would_go_to_several_queues_runs_once() -> None:
    everywhere = Exchange("all", type="fanout")
    proj = Proj(task_queues=[Queue("one", everywhere), Queue("two", everywhere)])

    canvas = proj.add.s(1, 1).set(exchange="all") | proj.add.s(1).set(exchange="all")
    assert await (await canvas.apply()) == 3

    assert proj.called == [("add", 1, 1), ("add", 2, 1)]


async def test_what_cannot_run_is_refused_before_anything_does(proj: Proj) -> None:
    elsewhere = Signature[Any]("elsewhere.task")
    for canvas, error, words in (
        (proj.add.s(1, 1) | elsewhere, NotRegistered, "no task is registered as 'elsewhere.task'"),
        (proj.add.s(1, 1) | proj.add.s(1, 2), InvalidArguments, "too many"),
        (group(proj.add.s(1, 1), chain()), CallError, "an empty chain"),
        (group(proj.add.s(1, 1).set(task_id="x"), proj.add.s(1, 1).set(task_id="x")), CallError, "the id x"),
    ):
        with pytest.raises(error, match=words):
            await canvas.apply()
    assert proj.called == []


async def test_a_callback_that_is_registered_elsewhere_is_nobody_elses_concern(
    proj: Proj, caplog: pytest.LogCaptureFixture
) -> None:
    assert await (await proj.add.s(1, 1).link(Signature[Any]("elsewhere.task")).apply()) == 2

    assert "no task is registered as 'elsewhere.task'" in caplog.text


async def test_a_task_that_wants_to_be_ignored_or_refuses_ends_what_waits_for_it(proj: Proj) -> None:
    result: Any = await chord([proj.add.s(1, 1), proj.ignoring.s()], proj.xsum.s()).apply()
    with pytest.raises(ChordError, match="asked to be ignored"):
        await result
    assert isinstance(await result.parent[1].get(propagate=False), TaskIgnored)
    assert isinstance(await (await proj.ignoring.s().apply()).get(propagate=False), TaskIgnored)

    @proj.app.task(name="refusing")
    async def refusing() -> None:
        raise Reject("not mine")

    with pytest.raises(DeadLettered, match="rejected: not mine"):
        await (refusing.s() | proj.note.s()).apply(throw=True)


async def test_what_a_running_task_sends_is_its_child_and_in_its_tree(eager: Proj) -> None:
    seen: list[tuple[str | None, str | None]] = []

    @eager.app.task(bind=True)
    async def inner(self: Task[..., Any], *_: Any) -> None:
        seen.append((self.request.parent_id, self.request.root_id))

    @eager.app.task(bind=True)
    async def outer(self: Task[..., Any]) -> list[str]:
        result: Any = await (inner.s() | inner.s().set(task_id="second")).delay()
        assert [result.parent.id] == self.request.children
        return list(self.request.children)

    (first,) = await (await outer.options(task_id="outer").delay())

    assert seen == [("outer", "outer"), (first, "outer")]


async def test_results_are_stored_if_a_setting_says_so() -> None:
    proj = Proj(broker_url="memory://", task_always_eager=True, task_store_eager_result=True)
    async with proj.app:
        canvas = proj.add.s(1, 1).set(task_id="first") | proj.add.s(1).set(task_id="quiet", ignore_result=True)
        await (canvas | proj.fail.s().set(task_id="failed") | proj.note.s().set(task_id="never")).delay()

        states = [await proj.app.AsyncResult(name).state() for name in ("first", "quiet", "failed", "never")]

    assert states == ["SUCCESS", "PENDING", "FAILURE", "FAILURE"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
async def test_what_is_not_the_tasks_to_keep_goes_up(proj: Proj, error: type[BaseException]) -> None:
    @proj.app.task
    async def stop() -> None:
        raise error

    with pytest.raises(error):
        await (stop.s() | proj.note.s()).apply()


async def test_a_result_that_was_kept_here_alone_expires_never() -> None:
    """Results that are kept for a moment only are no reason to lose one on the way."""
    proj = Proj(result_expires=0.001)

    @proj.app.task
    async def slow(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    assert await (await (group(slow.s(1), slow.s(2)) | slow.s() | proj.xsum.s()).apply()) == 3
