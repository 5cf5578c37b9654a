"""An ignored task's end is sent as any other result where results are messages."""

from __future__ import annotations

import pytest

from aiotq import AioTQ, Ignore, TaskIgnored

from ..servers import shared_rabbit


async def test_whoever_waits_for_an_ignored_task_on_rpc_is_told_so() -> None:
    app = AioTQ("rpc", broker=shared_rabbit().vhost(), backend="rpc://")

    @app.task
    async def vanish() -> None:
        raise Ignore

    async with app, app.worker():
        with pytest.raises(TaskIgnored):
            await (await vanish.delay()).get(timeout=20)
