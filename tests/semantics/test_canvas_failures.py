"""How workflows fail: what ends, in which state, and who is told, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    AsyncResult,
    Canvas,
    ChordError,
    Signature,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    chain,
    chord,
    group,
)
from aiotq.canvas import as_form
from aiotq.exceptions import DeadLettered, MessageTooLarge
from aiotq.wire.serializers import Serializer

from .canvas_tasks import Kit
from .conftest import MakeApp, Run


async def ended(result: Any) -> tuple[str, str]:
    """Return the state a task ended in, and its exception's type."""
    error = await result.get(timeout=10, propagate=False)
    return await result.state(), type(error).__name__


async def test_a_failed_step_ends_its_chain_and_only_its_own_error_callback_is_called(kit: Kit, run: Run) -> None:
    steps = [
        kit.add.s(1, 1).on_error(kit.note_task.si("of the first")).link(kit.note_task.s("called")),
        kit.fail.s().on_error(kit.note_task.si("of the failed")),
        kit.note_task.s("never").on_error(kit.note_task.si("of a later one")).link(kit.note_task.si("never")),
        kit.note_task.s("never"),
    ]
    result: Any = await chain(steps).delay()

    with pytest.raises(ValueError, match="no luck"):
        await result.get(timeout=10)

    assert await ended(result.parent) == await ended(result.parent.parent) == ("FAILURE", "ValueError")
    assert await result.parent.parent.parent.get(timeout=10) == 2
    assert sorted(await kit.has_noted(2), key=str) == [("of the failed",), (2, "called")]


async def test_an_error_callback_gets_the_request_the_exception_and_its_traceback(kit: Kit, run: Run) -> None:
    result: Any = await kit.fail.apply_async((7,), link_error=kit.broken.s())

    ((task_id, task, args, error, traceback),) = await kit.has_noted(1)
    assert (task_id, task, tuple(args)) == (result.id, "fail", (7,))
    assert isinstance(error, ValueError)
    assert error.args == ("no luck", 7)
    assert "in fail" in traceback


async def test_an_error_callback_of_one_argument_gets_the_id(kit: Kit, run: Run) -> None:
    result: Any = await kit.fail.apply_async(link_error=[kit.old_broken.s(), kit.note_task.si("immutable")])

    assert sorted(await kit.has_noted(2), key=str) == [("immutable",), result.id]


async def test_error_callbacks_may_be_workflows(kit: Kit, run: Run) -> None:
    result: Any = await kit.fail.apply_async(link_error=kit.old_broken.s() | kit.note_task.s("then"))

    assert await kit.has_noted(2) == [result.id, (None, "then")]


async def test_the_first_failed_member_fails_the_body_and_ends_what_follows(kit: Kit, run: Run) -> None:
    body = kit.note_task.s("never").on_error(kit.broken.s())
    result: Any = await (chord([kit.add.s(1, 1), kit.fail.s()], body) | kit.note_task.s("never")).delay()
    failed = result.parent.parent[1]

    with pytest.raises(ChordError, match=rf"Dependency {failed.id} raised ValueError\('no luck'\)"):
        await result.parent.get(timeout=10)

    assert await ended(result) == ("FAILURE", "ChordError")
    ((task_id, task, _, error, _),) = await kit.has_noted(1)
    assert (task_id, task, type(error)) == (result.parent.id, "note", ChordError)


@pytest.mark.parametrize("both", [False, True])
async def test_error_callbacks_of_a_chord_are_its_bodys_and_its_headers_if_a_setting_says_so(
    make_app: MakeApp, both: bool
) -> None:
    app = make_app(task_allow_error_cb_on_chord_header=both)
    kit = Kit(app)
    async with app, app.worker():
        result: Any = await chord([kit.fail.s(), kit.add.s(1, 1)], kit.xsum.s()).on_error(kit.old_broken.s()).delay()
        assert await ended(result) == ("FAILURE", "ChordError")
        told = set(await kit.has_noted(2 if both else 1))
    assert told == {result.id, result.parent[0].id} if both else {result.id}


async def test_exceptions_stand_where_a_group_goes_on_without_values(kit: Kit, run: Run) -> None:
    member = kit.fail.s(3).allow_failure("continue").on_error(kit.old_broken.s())
    result: Any = await (group(kit.add.s(1, 1), member) | kit.note_task.s()).delay()

    await result.get(timeout=10)

    ((values,),) = [noted for noted in await kit.has_noted(2) if isinstance(noted, tuple)]
    assert values[0] == 2
    assert isinstance(values[1], ValueError)
    assert result.parent[1].id in kit.noted, "its error callback was called"
    assert await ended(result.parent[1]) == ("FAILURE", "ValueError")
    assert (await result.parent.get(timeout=10))[0] == 2


async def test_a_chain_goes_on_with_the_exception_of_a_step(kit: Kit, run: Run) -> None:
    two = chain(kit.fail.s(), kit.add.s(1)).allow_failure("continue")
    whole = chord([kit.fail.s()], kit.xsum.s()).allow_failure("continue")

    for canvas in (kit.fail.s().allow_failure("continue"), two, whole):
        await run(canvas | kit.note_task.s())

    assert [type(error) for (error,) in kit.noted] == [ValueError, ValueError, ChordError]


async def test_a_group_fails_with_its_first_failure_and_gives_all_of_them_if_asked(kit: Kit, run: Run) -> None:
    result: Any = await group(kit.add.s(1, 1), kit.fail.s(), kit.fail.s().allow_failure("skip")).delay()

    with pytest.raises(ValueError, match="no luck"):
        await result.get(timeout=10)

    value, error = await result.get(timeout=10, propagate=False)
    assert (value, type(error)) == (2, ValueError)


async def _expire(app: AioTQ, result: AsyncResult[Any]) -> None:
    await asyncio.sleep(0.05)


async def _revoke(app: AioTQ, result: AsyncResult[Any]) -> None:
    await result.revoke()


async def _nothing(app: AioTQ, result: AsyncResult[Any]) -> None:
    pass


def _cannot_be_read(_: bytes) -> Any:
    raise ValueError("garbage")


def _undecodable(kit: Kit) -> Signature[Any]:
    kit.app.register_serializer(Serializer("odd", "application/x-odd", "utf-8", lambda _: b"?", _cannot_be_read))
    return kit.add.s(1, 1).set(serializer="odd")


WAYS: dict[str, tuple[Callable[[Kit], Canvas[Any]], Callable[..., Awaitable[None]], str, type[Exception]]] = {
    "raised": (lambda k: k.fail.s(), _nothing, "FAILURE", ValueError),
    "revoked": (lambda k: k.add.s(1, 1), _revoke, "REVOKED", TaskRevokedError),
    "expired": (lambda k: k.add.s(1, 1).set(expires=0.01), _expire, "REVOKED", TaskRevokedError),
    "out of time": (lambda k: k.slow.s(), _nothing, "FAILURE", TimeLimitExceeded),
    "rejected": (lambda k: k.rejecting.s(), _nothing, "FAILURE", DeadLettered),
    "undecodable": (_undecodable, _nothing, "FAILURE", DeadLettered),
    "of no known task": (lambda k: k.app.signature("nobody's"), _nothing, "FAILURE", DeadLettered),
    "replaced by what fails": (lambda k: k.replaced.s(as_form(k.fail.s())), _nothing, "FAILURE", ValueError),
    "not to be called so": (lambda k: k.replaced.s(as_form(k.add.s(1))), _nothing, "FAILURE", TypeError),
}


@pytest.mark.parametrize("way", WAYS)
async def test_however_a_member_ends_its_chord_ends_with_it(make_app: MakeApp, way: str) -> None:
    """The same for the last of a chain, and for a group that goes on without it."""
    app = make_app(accept_content=["json", "odd"], worker_unknown_task_timeout=0.0)
    app.register_serializer(Serializer("odd", "application/x-odd", "utf-8", lambda _: b"?", _cannot_be_read))
    kit = Kit(app)
    make, do, state, error = WAYS[way]
    async with app:
        fatal: Any = await chord([kit.add.s(1, 1), make(kit)], kit.xsum.s()).delay()
        chained: Any = await chord([kit.add.s(1, 1), make(kit) | kit.add.si(1, 1)], kit.xsum.s()).delay()
        tolerated: Any = await (group(kit.add.s(1, 1), make(kit).allow_failure("continue")) | kit.note_task.s()).delay()
        for first in (fatal.parent[1], chained.parent[1].parent, tolerated.parent[1]):
            await do(app, first)
        async with app.worker():
            assert await ended(fatal) == await ended(chained) == ("FAILURE", "ChordError")
            for member in (fatal.parent[1], chained.parent[1], tolerated.parent[1]):
                assert (await ended(member))[0] == state
                assert isinstance(await member.get(propagate=False), error)
            if way == "undecodable":  # so is what it says of its failure
                assert await ended(tolerated) == ("FAILURE", "ChordError")
                return
            await tolerated.get(timeout=10)
    ((values,),) = kit.noted
    assert values[0] == 2
    assert isinstance(values[1], error)


async def test_what_is_revoked_before_its_turn_came_ends_there(kit: Kit, app: AioTQ) -> None:
    """A later step, and a body: neither has a message yet."""
    async with app:
        stepwise: Any = await (kit.add.s(1, 1) | kit.note_task.s("never") | kit.note_task.s("never")).delay()
        counted: Any = await chord([kit.add.s(1, 1)], kit.note_task.s("never")).on_error(kit.old_broken.s()).delay()
        await stepwise.parent.revoke()
        await counted.revoke()
        async with app.worker():
            assert await ended(stepwise) == await ended(stepwise.parent) == ("REVOKED", "TaskRevokedError")
            assert await ended(counted) == ("REVOKED", "TaskRevokedError")
            assert await stepwise.parent.parent.get(timeout=10) == 2
            assert await kit.has_noted(1) == [counted.id]


async def test_a_member_that_wants_to_be_ignored_ends_its_chord(kit: Kit, run: Run) -> None:
    result: Any = await (chord([kit.add.s(1, 1), kit.ignoring.s()], kit.xsum.s()) | kit.add.s(1)).delay()

    with pytest.raises(ChordError, match="asked to be ignored"):
        await result.get(timeout=10)

    step = await (kit.ignoring.s() | kit.add.s(1)).delay()
    with pytest.raises(TaskError, match="asked to be ignored"):
        await step.get(timeout=10)


async def test_a_chord_at_which_nobody_arrives_fails_in_the_end(make_app: MakeApp) -> None:
    app = make_app(join_timeout=0.2)
    kit = Kit(app)
    async with app, app.worker(queues=["default"]):
        nobodys = kit.add.s(1, 1).set(queue="of nobody")
        result: Any = await chord([kit.add.s(1, 1), nobodys], kit.xsum.s()).on_error(kit.old_broken.s()).delay()

        with pytest.raises(ChordError, match=r"JoinLost\('no task of .* ended for join_timeout seconds'\)"):
            await result.get(timeout=10)
        assert await kit.has_noted(1) == [result.id]


async def test_members_that_are_due_later_are_waited_for(make_app: MakeApp) -> None:
    app = make_app(join_timeout=2.5)
    kit = Kit(app)
    async with app, app.worker():
        result: Any = await chord([kit.add.s(1, 1).set(countdown=3.0), kit.add.s(1, 1)], kit.xsum.s()).delay()

        assert await result.get(timeout=10) == 4


async def test_a_value_too_large_for_a_message_is_handed_on_all_the_same(make_app: MakeApp) -> None:
    app = make_app(task_message_max_size=20_000)
    kit = Kit(app)

    @app.task
    async def many(size: int) -> str:
        return "x" * size

    @app.task
    async def length(value: Any) -> int:
        return len(value)

    async with app, app.worker():
        assert await (await (many.s(100_000) | length.s() | kit.add.s(1)).delay()).get(timeout=10) == 100_001
        branches = many.s(50_000) | group(length.s(), length.s()) | kit.xsum.s()
        assert await (await branches.delay()).get(timeout=10) == 100_000
        members = group(many.s(50_000), many.s(50_000)) | length.s()
        assert await (await members.delay()).get(timeout=10) == 2


async def test_a_value_too_large_to_be_kept_fails_its_task_and_its_workflow(make_app: MakeApp) -> None:
    app = make_app(result_max_size=1000)
    kit = Kit(app)

    @app.task
    async def many(size: int) -> str:
        return "x" * size

    async with app, app.worker():
        result: Any = await chord([many.s(2000), kit.add.s(1, 1)], kit.echo.s()).delay()
        assert await ended(result) == ("FAILURE", "ChordError")
        with pytest.raises(MessageTooLarge):
            await result.parent[0].get(timeout=10)
