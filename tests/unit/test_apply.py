"""`apply`: a call run here ends as it would in a worker, and options that mean nothing here are refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from aiotq import AioTQ, SoftTimeLimitExceeded, TimeLimitExceeded
from aiotq.exceptions import EncodeError, InvalidOption


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://")


async def test_the_declared_hard_limit_is_kept(app: AioTQ) -> None:
    @app.task(time_limit=0.02)
    async def insist() -> None:
        await asyncio.sleep(60)

    result = await insist.apply()

    assert await result.state() == "FAILURE"
    with pytest.raises(TimeLimitExceeded, match=r"hard time limit of 0\.02 s exceeded"):
        await result


async def test_the_soft_limit_is_kept_and_can_be_caught(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.02)
    async def try_for_a_while() -> str:
        with suppress(SoftTimeLimitExceeded):
            await asyncio.sleep(60)
        return "gave up politely"

    @app.task
    async def insist() -> None:
        await asyncio.sleep(60)

    assert await (await try_for_a_while.apply()) == "gave up politely"
    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.03 s"):
        await (await insist.apply(soft_time_limit=0.03))


@pytest.mark.parametrize(
    ("setting", "error"), [("task_time_limit", TimeLimitExceeded), ("task_soft_time_limit", SoftTimeLimitExceeded)]
)
async def test_limits_of_the_settings_are_kept(setting: str, error: type[Exception]) -> None:
    settings: dict[str, Any] = {setting: 0.02}
    app = AioTQ("proj", broker="memory://", **settings)

    @app.task
    async def insist() -> None:
        await asyncio.sleep(60)

    with pytest.raises(error):
        await (await insist.apply())


async def test_a_timeout_of_the_tasks_own_is_not_the_limit(app: AioTQ) -> None:
    @app.task(time_limit=60)
    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await (await fail.apply())


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 1},
        {"eta": datetime(2030, 1, 1, tzinfo=UTC)},
        {"expires": 1},
        {"queue": "hi"},
        {"priority": 9},
        {"publish_timeout": 1},
    ],
)
async def test_an_option_for_calls_that_are_sent_is_refused(app: AioTQ, options: Any) -> None:
    @app.task
    async def work() -> None:
        raise AssertionError("it must not run")

    with pytest.raises(InvalidOption, match=rf"work\.apply: {next(iter(options))} is for calls that are sent"):
        await work.apply(**options)


async def test_a_value_that_cannot_be_serialized_is_the_failure(app: AioTQ) -> None:
    @app.task
    async def give(value: str) -> object:
        return object() if value == "object" else 10**5000

    for value in ("object", "number"):
        result = await give.apply((value,))

        assert await result.failed()
        with pytest.raises(EncodeError, match="the result can't be serialized as json"):
            await result


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_what_is_not_the_tasks_to_keep_goes_up(app: AioTQ, error: type[BaseException]) -> None:
    """Ctrl-C in a program that tries a task out ends the program."""

    @app.task
    async def stop() -> None:
        raise error

    with pytest.raises(error):
        await stop.apply()
