"""Workflows as Celery's users write them: handles of chains of one, callbacks that fail, ids that are used twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, ChordError, Task, chain, chord, group, signature, states
from aiotq.exceptions import CallError, InvalidOption

from .canvas_tasks import Kit
from .conftest import Run


async def test_calling_a_chain_of_one_sends_it(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker(), asyncio.timeout(20):
        result = await chain([kit.add.s(1, 1)])()

        assert isinstance(result, AsyncResult)
        assert await result == 2
        assert await (~chain(kit.add.s(2, 2))) == 4


async def test_a_failed_chord_is_caused_by_its_members_own_exception(app: AioTQ, kit: Kit) -> None:
    flow = chord([kit.add.s(1, 1), kit.fail.s()], kit.xsum.s()) | kit.add.s(1)
    async with app, app.worker(), asyncio.timeout(20):
        result = await flow.delay()
        error = await result.get(propagate=False)

    assert isinstance(error, ChordError)
    assert type(error.__cause__) is ValueError


async def test_two_workflows_under_way_may_have_calls_of_one_id(app: AioTQ, kit: Kit) -> None:
    held = asyncio.Event()

    @app.task(name="holding")
    async def holding() -> int:
        await held.wait()
        return 1

    def flow() -> Any:
        return group(holding.s().set(task_id="same"), kit.add.s(0, 0)) | kit.xsum.s()

    async with app, app.worker(), asyncio.timeout(20):
        results = [await flow().delay(), await flow().delay()]
        held.set()

        assert [await result for result in results] == [1, 1]


async def test_a_callback_that_can_not_be_sent_has_failed(kit_app: tuple[AioTQ, Kit]) -> None:
    app, kit = kit_app

    @app.task(name="large")
    async def large() -> str:
        return "x" * 200_000

    async with app, app.worker(), asyncio.timeout(20):
        result = await large.apply_async(link=kit.echo.s())
        assert len(await result) == 200_000

        (child,) = await result.children()
        assert await child.state() == states.FAILURE


@pytest.fixture
def kit_app(app: AioTQ, kit: Kit) -> tuple[AioTQ, Kit]:
    app.conf.update(task_message_max_size=100_000)
    return app, kit


async def test_an_old_error_callback_may_have_stored_arguments(app: AioTQ, kit: Kit) -> None:
    told: list[tuple[str, str]] = []
    both = asyncio.Event()

    @app.task(name="lament")
    async def lament(task_id: str, label: str) -> None:
        told.append((task_id, label))
        if len(told) == 2:
            both.set()

    async with app, app.worker(), asyncio.timeout(20):
        result = await kit.fail.s().link_error(lament.s("one"), lament.s(label="two")).delay()
        await both.wait()

    assert sorted(told) == [(result.id, "one"), (result.id, "two")]


async def test_signatures_and_handles_are_arguments_and_values(app: AioTQ, kit: Kit) -> None:
    @app.task(name="then", bind=True)
    async def then(self: Task[..., Any], callback: Any) -> Any:
        assert callback == signature(dict(callback))
        self.replace(callback)

    @app.task(name="makes")
    async def makes() -> Any:
        return kit.add.s(1, 2)

    @app.task(name="waits")
    async def waits(result: Any) -> Any:
        return await result

    @app.task(name="sends")
    async def sends() -> Any:
        return await kit.add.delay(1, 2)

    async with app, app.worker(), asyncio.timeout(20):
        assert await (await then.delay(chord([kit.add.s(1, 1), kit.add.s(0, 1)], kit.xsum.s()))) == 3
        assert await (await (await makes.delay()).get()).delay() is not None
        assert await (await waits.delay(await kit.add.delay(1, 2))) == 3
        assert await (await (await sends.delay())) == 3


async def test_chains_and_chords_are_sent_with_many_others(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker(), asyncio.timeout(20):
        results = await app.send_many(
            [kit.add.s(1, 1), kit.add.s(1, 1) | kit.add.s(1), chord([kit.add.s(2, 2)], kit.xsum.s())]
        )
        assert await results == [2, 3, 4]

        with pytest.raises(CallError, match="has no single result: send it alone"):
            await app.send_many([kit.add.s(1, 1), anything(group(kit.add.s(1, 1)))])


def anything(given: Any) -> Any:
    return given


@pytest.mark.parametrize("option", ["on_interval", "no_ack", "disable_sync_subtasks"])
async def test_options_of_celerys_get_are_refused_with_what_to_do_instead(app: AioTQ, kit: Kit, option: str) -> None:
    option_of_celery: Any = {option: None}
    async with app, app.worker():
        one: Any = await kit.add.delay(1, 1)
        many: Any = await group(kit.add.s(1, 1)).delay()

        for handle in (one, many, many.members):
            with pytest.raises(InvalidOption, match=f"no option '{option}': "):
                await handle.get(**option_of_celery)
        for handle in (one.sync, many.sync):
            with pytest.raises(InvalidOption, match=f"no option '{option}': "):
                handle.get(**option_of_celery)
        with pytest.raises(TypeError, match="unexpected keyword argument 'unheard'"):
            await one.get(unheard=1)
        assert await one.get() == 2


async def test_get_calls_back_with_each_value(app: AioTQ, kit: Kit) -> None:
    seen: list[tuple[str, Any]] = []

    async def note(task_id: str, value: Any) -> None:
        seen.append((task_id, value))

    async with app, app.worker():
        one = await kit.add.delay(1, 1)
        many: Any = await group(kit.add.s(0, i) for i in range(3)).delay()
        expected = [(result.id, i) for i, result in enumerate(many)]

        assert await one.get(10, callback=note, interval=0.1) == 2
        assert await many.get(10, callback=note, interval=0.1) == [0, 1, 2]
        assert (seen[0], sorted(seen[1:])) == ((one.id, 2), sorted(expected))

        seen.clear()
        assert await asyncio.to_thread(lambda: one.sync.get(10, callback=lambda *told: seen.append(told))) == 2
        await asyncio.to_thread(lambda: many.sync.get(10, callback=lambda *told: seen.append(told)))
        assert seen == [(one.id, 2), *expected]

        seen.clear()
        failed = await kit.fail.delay()
        with pytest.raises(ValueError, match="no luck"):
            await failed.get(10, callback=note)
        assert seen == []
        error = await failed.get(10, propagate=False, callback=note)
        assert seen == [(failed.id, error)]


async def test_get_raises_the_error_of_a_failed_parent_if_asked(kit: Kit, run: Run) -> None:
    result: Any = await chord([kit.add.s(1, 1), kit.fail.s()], kit.xsum.s()).delay()

    with pytest.raises(ChordError):
        await result.get(10)
    with pytest.raises(ValueError, match="no luck"):
        await result.get(10, follow_parents=True)
    assert await (await (kit.add.s(1, 1) | kit.add.s(1)).delay()).get(10, follow_parents=True) == 3
