"""A worker that has nothing to do leaves the loop alone, on every broker."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from aiotq import AioTQ


async def test_an_idle_worker_leaves_the_loop_alone(app: AioTQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are the turns of the loop: a wait that is none would take thousands a second."""

    @app.task
    async def nothing() -> int:
        return 1

    selector = cast(Any, asyncio.get_running_loop())._selector
    turns = 0
    select = selector.select

    def counted(timeout: float | None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    async with app, app.worker():
        assert await (await nothing.delay()).get(timeout=10) == 1
        await asyncio.sleep(0.1)  # what followed the task is over
        monkeypatch.setattr(selector, "select", counted)
        await asyncio.sleep(0.5)
        monkeypatch.undo()

    assert turns < 100
