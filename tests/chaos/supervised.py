"""A worker that somebody starts again whenever it dies, as a supervisor does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotq import AsyncResult
from aiotq.exceptions import DeadLettered

from .harness import PATIENCE, Chaos


@asynccontextmanager
async def supervised_worker(chaos: Chaos, **settings: object) -> AsyncIterator[None]:
    """Keep a worker running: whenever one dies another is started."""

    async def supervise() -> None:
        while True:
            await chaos.start_worker(**settings).ended()

    supervising = asyncio.create_task(supervise())
    try:
        yield
    finally:
        supervising.cancel()
        await asyncio.wait({supervising})


async def died_of(result: AsyncResult[Any]) -> str:
    with pytest.raises(DeadLettered) as raised:
        await result.get(timeout=PATIENCE)
    assert await result.state() == "FAILURE"
    return str(raised.value)
