"""The line that a worker logs when a task ends, or goes on later, says which state it gives the task."""

from __future__ import annotations

import logging

import pytest

from aiotq import AioTQ, Ignore, Reject, Snooze, Task, states
from aiotq.canvas.outcome import REJECTED
from aiotq.core.logs import state_of

BROKERS_HERE = ("memory",)


async def test_each_end_of_a_task_is_logged_with_its_state(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiotq.task")

    @app.task(bind=True, throws=(KeyError,))
    async def ends(self: Task[..., object], error: str) -> None:
        if error == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        if error == "snooze" and not self.request.attempt:
            raise Snooze(0)
        if error in kinds:
            raise kinds[error]

    kinds = {"value": ValueError("no luck"), "key": KeyError("k"), "ignore": Ignore(), "reject": Reject("not mine")}
    expected = {
        "": [states.SUCCESS],
        "value": [states.FAILURE],
        "key": [states.FAILURE],
        "ignore": [states.IGNORED],
        "reject": [REJECTED],
        "retry": [states.RETRY, states.SUCCESS],
        "snooze": [states.RETRY, states.SUCCESS],
    }
    async with app, app.worker():
        for error in expected:
            await (await ends.delay(error)).get(timeout=10, propagate=False)
        late = await ends.apply_async(("late",), expires=-1)
        await late.get(timeout=10, propagate=False)

    told = [state for record in caplog.records if (state := state_of(record)) is not None]
    assert told == [*(state for found in expected.values() for state in found), states.REVOKED]
