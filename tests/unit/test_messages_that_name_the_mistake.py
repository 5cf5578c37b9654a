"""Mistakes in calls are our errors, which say what is wrong and what to write instead."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import CallError, EncodeError, InvalidOption
from aiotq.signals import after_task_publish, before_task_publish


class Order:
    """It has no form in JSON, and its name begins with a vowel."""


@pytest.fixture
def app() -> AioTQ:
    app = AioTQ("mistakes", broker="memory://")

    @app.task(name="ok")
    async def ok(*args: Any) -> int:
        return len(args)

    return app


async def test_one_signature_in_send_many_is_told_to_stand_in_a_list(app: AioTQ) -> None:
    one: Any = app.tasks["ok"].s()
    async with app:
        with pytest.raises(CallError, match="takes many signatures, not one: give it a list"):
            await app.send_many(one)


async def test_a_task_in_send_many_is_told_to_be_a_signature(app: AioTQ) -> None:
    task: Any = app.tasks["ok"]
    async with app:
        with pytest.raises(CallError, match=r"takes signatures such as add\.s"):
            await app.send_many([task])


@pytest.mark.parametrize("timeout", ["5", math.nan, True])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(app: AioTQ, timeout: Any) -> None:
    async with app:
        result = await app.tasks["ok"].delay()
        several = await app.send_many([app.tasks["ok"].s()])
        for awaited in (result, several):
            with pytest.raises(InvalidOption, match="timeout must be seconds, or None"):
                await awaited.get(timeout)


@pytest.mark.parametrize("option", ["link", "link_error"])
async def test_an_argument_of_a_callback_that_cannot_be_encoded_is_said_to_be_there(app: AioTQ, option: str) -> None:
    options: Any = {option: app.tasks["ok"].si(object())}
    async with app:
        with pytest.raises(EncodeError, match=rf"what is in {option}\[0\]\['args'\]\[0\] can't be serialized"):
            await app.tasks["ok"].apply_async(**options)


async def test_a_type_is_named_without_an_article(app: AioTQ) -> None:
    async with app:
        with pytest.raises(EncodeError, match="type Order has no form in it"):
            await app.tasks["ok"].delay(Order())


async def test_the_publishing_signals_carry_stamps(app: AioTQ) -> None:
    told: list[Any] = []

    def hear(headers: dict[str, Any], **_: Any) -> None:
        told.append((headers["stamped_headers"], headers["stamps"]))

    before_task_publish.connect(hear)
    after_task_publish.connect(hear)
    try:
        async with app:
            await app.tasks["ok"].s(1).stamp(customer=7).delay()
    finally:
        before_task_publish.disconnect(hear)
        after_task_publish.disconnect(hear)

    assert told == [(["customer"], {"customer": [7]})] * 2
