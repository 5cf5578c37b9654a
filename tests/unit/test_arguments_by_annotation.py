"""Plain data becomes what annotations say: arguments in the worker, results in the caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import InvalidArguments
from aiotq.testing import TestWorker
from tests.unit.shaped_tasks import CASES, Line, app


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize("kind", ["loop", "thread", "process"])
async def test_arguments_and_results_are_what_annotations_say(serializer: str, kind: str) -> None:
    """Each type, sent as plain data and as itself; and data that does not fit, which ends the task with its place."""
    wrong: list[str] = []

    async def try_one(name: str) -> None:
        case = CASES[name]
        task = f"shaped.{name}.{kind}"
        for given in (case.plain, case.value):
            told = await (await app.send_task(task, (given,), serializer=serializer)).get(propagate=False)
            if not isinstance(told, list) or told != [True, type(case.value).__name__, case.value]:
                wrong.append(f"{name}, {given!r}: {told!r}")
            elif type(told[2]) is not type(case.value):
                wrong.append(f"{name}, {given!r}: the caller got a {type(told[2])}")
        if case.says:
            error = await (await app.send_task(task, (case.wrong,), serializer=serializer)).get(propagate=False)
            if not isinstance(error, InvalidArguments) or case.says not in str(error):
                wrong.append(f"{name}, {case.wrong!r}: {error!r}")

    async with TestWorker(app, result_serializer=serializer):
        await asyncio.gather(*map(try_one, CASES))

    assert not wrong, "\n".join(wrong)


@dataclass
class Order:
    customer: str


async def test_what_does_not_fit_is_not_retried_and_each_way_of_giving_it_counts() -> None:
    app = AioTQ("proj", broker="memory://")
    runs: list[Any] = []

    @app.task(autoretry_for=(Exception,), default_retry_delay=1, typing=True)
    async def take(first: Order, /, *rest: Order, by_name: Order | None = None, **more: Order) -> None:
        runs.append((first, rest, by_name, more))

    take.fn.__annotations__.update(first=Order, rest=Order, by_name=Order | None, more=Order)
    plain = {"customer": "ann"}
    async with TestWorker(app) as t:
        await (await app.send_task(take.name, (plain, plain), {"by_name": plain, "other": plain}))
        for args, kwargs, place in (
            (({"customer": 7},), {}, "first.customer must be str, not 7"),
            ((plain, plain, {}), {}, r"rest\[1\].customer is missing"),
            ((plain,), {"other": 7}, "other must be the fields of a Order, not 7"),
        ):
            result = await app.send_task(take.name, args, kwargs)
            await t.advance(minutes=1)
            with pytest.raises(InvalidArguments, match=f"take: argument {place}"):
                await result
    ann = Order("ann")
    assert runs == [(ann, (ann,), ann, {"other": ann})]


async def test_a_retry_sends_what_came_and_maps_are_made_one_by_one() -> None:
    """With `celery_compat` a model can't be sent: a retry that sent what the task got would fail."""
    app = AioTQ("proj", broker="memory://", celery_compat=True)

    @app.task(bind=True, default_retry_delay=1)
    async def take(self: Any, line: Line, again: bool = False) -> bool:
        if again and not self.request.retries:
            raise self.retry()
        return type(line) is Line

    take.fn.__annotations__["line"] = Line
    async with TestWorker(app) as t:
        again = await app.send_task(take.name, ({"price": 1},), {"again": True})
        await t.advance(seconds=1)
        assert await again
        assert await (await take.map([{"price": 1}, {"price": 2}]).delay()) == [True, True]
        assert await (await take.starmap([[{"price": 1}]]).delay()) == [True]


async def test_strict_arguments_can_be_turned_off_for_all_and_for_one() -> None:
    for is_strict, typing in ((False, None), (True, False)):
        app = AioTQ("proj", broker="memory://", strict_arguments=is_strict)

        @app.task(typing=typing)
        async def take(order: Order) -> str:
            return type(order).__name__

        take.fn.__annotations__["order"] = Order
        take.check((1, 2, 3), {})
        async with TestWorker(app):
            assert await (await app.send_task(take.name, ({"customer": "ann"},))) == "dict"
