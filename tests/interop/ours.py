"""An app that shares queues and results with Celery, and its tasks."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from aiotq import AioTQ, Task

#: What callbacks brought, by the key that they were called with.
RECORDED: dict[str, Any] = {}


def make_app(broker: str, backend: str | None, **settings: Any) -> AioTQ:
    """Return an app named `ours`; its tasks are `ours.*`."""
    app = AioTQ("ours", broker=broker, result_backend=backend, celery_compat=True, **settings)

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="ours.fail")
    async def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="ours.report", bind=True)
    async def report(self: Task[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        request = self.request
        return {
            "args": args,
            "kwargs": kwargs,
            "headers": request.headers,
            "id": request.id,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
            "retries": request.retries,
            "stamps": dict(request.stamps),
            "at": time.time(),
        }

    @app.task(name="ours.sleep")
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @app.task(name="ours.kinds")
    async def kinds(when: datetime, amount: Decimal, key: UUID) -> list[str]:
        return [type(each).__name__ for each in (when, amount, key)]

    @app.task(name="ours.flaky", bind=True, max_retries=3, default_retry_delay=0.01)
    async def flaky(self: Task[..., Any], times: int) -> int:
        if self.request.retries < times:
            raise self.retry()
        return self.request.retries

    @app.task(name="ours.record")
    async def record(value: Any, key: str) -> Any:
        RECORDED[key] = value
        return value

    @app.task(name="ours.record_error")
    async def record_error(*told: Any) -> None:
        RECORDED[told[-1]] = told[:-1]

    return app
