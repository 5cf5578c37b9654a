"""Who follows a task sees its present state and what is newer, each once, and never what is older."""

from __future__ import annotations

import asyncio
from typing import Any

from aiotq import AioTQ, Task

from ..waiting import wait_until
from .conftest import MakeApp


async def test_followers_who_come_late_see_it_go_forward(app: AioTQ, make_app: MakeApp) -> None:
    asked: dict[int, asyncio.Event] = {step: asyncio.Event() for step in range(8)}
    told: list[int] = []

    @app.task(name="updates.steps", bind=True, track_started=True)
    async def steps(self: Task[..., Any]) -> str:
        for step in range(8):
            await self.update_state(state="PROGRESS", meta=step)
            told.append(step)
            await asked[step].wait()
        return "done"

    async def follow(follower: AioTQ, seen: list[Any]) -> None:
        async for update in follower.AsyncResult(handle.id).updates():
            seen.append(update.info)  # noqa: PERF401  # each is looked at as it comes

    other = make_app()
    async with app, other, app.worker():
        handle = await steps.delay()
        lists: list[list[Any]] = []
        async with asyncio.TaskGroup() as group:
            for step in range(8):
                await wait_until(lambda: told[-1:] == [step], "the step was told")  # noqa: B023
                if step in {2, 5}:
                    for follower in (app, other):
                        lists.append([])
                        group.create_task(follow(follower, lists[-1]))
                    await wait_until(lambda: all(lists), "all saw the present state")
                asked[step].set()

    for seen, first in zip(lists, (2, 2, 5, 5), strict=True):
        assert seen[0] <= first  # an older one may have been on its way
        assert seen[-1] == "done"
        assert seen[:-1] == sorted(set(seen[:-1]))
