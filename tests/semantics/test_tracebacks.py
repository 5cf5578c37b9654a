"""Tracebacks of tasks show the user's code, and not how it was called; all of it is in a log at DEBUG."""

from __future__ import annotations

import logging

import pytest

from aiotq import AioTQ

BROKERS_HERE = ("memory",)


async def test_the_users_frames_are_in_the_log_and_the_result(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(soft_time_limit=60)
    async def on_the_loop() -> None:
        raise ValueError("no luck")

    @app.task
    def in_a_thread() -> None:
        raise ValueError("no luck")

    async with app, app.worker():
        for task in (on_the_loop, in_a_thread):
            caplog.clear()
            result = await task.delay()
            error = await result.get(timeout=10, propagate=False)

            assert isinstance(error, ValueError)
            for text in (caplog.text, str(await result.traceback()), str(error.__cause__)):
                assert 'raise ValueError("no luck")' in text
                assert "aiotq/worker" not in text
                assert "anyio" not in text


async def test_all_frames_are_in_a_log_at_debug(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiotq.task")

    @app.task
    async def fails() -> None:
        raise ValueError("no luck")

    async with app, app.worker():
        await (await fails.delay()).get(timeout=10, propagate=False)

    assert "aiotq/worker/execution.py" in caplog.text
