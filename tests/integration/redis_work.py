"""What the tests on a faulty Redis share: an app whose runs are counted, and what was logged."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.wire.message import Envelope, Message


def fresh_prefix() -> str:
    return f"test-{os.urandom(6).hex()}"


class Work:
    """An app whose tasks are counted as they begin; `hold` waits for `gate`."""

    def __init__(self, url: str, prefix: str, options: str = "", **settings: Any) -> None:
        joint = "&" if "?" in url else "?"
        self.app = AioTQ("x", broker=f"{url}{joint}prefix={prefix}{options}", **settings)
        self.base = f"{{{prefix}}}"
        self.gate = asyncio.Event()
        self.began: Counter[int] = Counter()
        self.cancelled: list[int] = []

        @self.app.task(name="x.double")
        async def double(x: int) -> int:
            self.began[x] += 1
            return 2 * x

        @self.app.task(name="x.hold")
        async def hold(x: int) -> int:
            self.began[x] += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(x)
                raise
            return 2 * x

        self.double, self.hold = double, hold

    def key(self, queue: str = "default", what: str = "4") -> str:
        return f"{self.base}:q:{queue}:{what}"

    async def answers(self) -> None:
        """Make a round trip."""
        await self.app.admin.queues()

    async def works(self, timeout: float = 10) -> None:
        """Assert that a new task runs."""
        assert await (await self.double.delay(21)).get(timeout=timeout) == 42


def warnings(caplog: pytest.LogCaptureFixture, text: str = "") -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and text in record.getMessage()
    ]


async def send_junk(app: AioTQ, task: str, task_id: str) -> None:
    """Send a call whose arguments can't be read: a dead letter to be."""
    transport = (await core_of(app).connection()).broker
    await transport.send([Envelope(Message(task_id, task, b"junk"), "default")])
