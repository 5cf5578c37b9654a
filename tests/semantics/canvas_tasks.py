"""Tasks to make workflows of, and what they noted."""

from __future__ import annotations

import asyncio
from typing import Any

from aiotq import AioTQ, Ignore, Reject, Request, Snooze, Task


class Kit:
    """Tasks of one app. What was `noted` is there in order; what was `seen` is the request of each step."""

    def __init__(self, app: AioTQ) -> None:
        self.app = app
        self.noted: list[Any] = []
        self.seen: dict[str, Request] = {}
        self.news = asyncio.Event()
        kit = self

        @app.task(name="add")
        async def add(x: Any, y: Any, *, debug: bool = False) -> Any:
            return (x + y) if not debug else ("debug", x + y)

        @app.task(name="mul")
        def mul(x: int, y: int) -> int:
            return x * y

        @app.task(name="xsum")
        async def xsum(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="echo")
        async def echo(*args: Any, **kwargs: Any) -> Any:
            return [*args, kwargs] if kwargs else list(args)

        @app.task(name="note", bind=True)
        async def note(self: Task[..., Any], *args: Any) -> None:
            kit.note(args)

        @app.task(name="where", bind=True)
        async def where(self: Task[..., Any], name: Any, *more: Any) -> Any:
            kit.seen[more[-1] if more else name] = self.request
            return name

        @app.task(name="fail", throws=(ValueError,))
        async def fail(*args: Any) -> Any:
            raise ValueError("no luck", *args)

        @app.task(name="flaky", bind=True, max_retries=5)
        async def flaky(self: Task[..., Any], x: int) -> int:
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return x

        @app.task(name="dozy", bind=True)
        async def dozy(self: Task[..., Any], x: int) -> int:
            if self.request.attempt < 2 and not self.request.is_eager:
                raise Snooze(0.01)
            return x

        @app.task(name="ignoring")
        async def ignoring(*args: Any) -> None:
            raise Ignore

        @app.task(name="rejecting")
        async def rejecting(*args: Any) -> None:
            raise Reject("not mine")

        @app.task(name="broken", bind=True)
        async def broken(self: Task[..., Any], request: Request, exc: BaseException, traceback: str | None) -> None:
            kit.note((request.id, request.task, request.args, exc, traceback))

        @app.task(name="old_broken")
        async def old_broken(task_id: str) -> None:
            kit.note(task_id)

        @app.task(name="slow", time_limit=0.05)
        async def slow() -> None:
            await asyncio.sleep(60)

        self.slow = slow

        @app.task(name="replaced", bind=True)
        async def replaced(self: Task[..., Any], by: dict[str, Any]) -> Any:
            raise self.replace(app.signature(by))

        self.replaced = replaced
        self.add, self.mul, self.xsum, self.echo, self.note_task, self.where = add, mul, xsum, echo, note, where
        self.fail, self.flaky, self.dozy, self.ignoring, self.rejecting = fail, flaky, dozy, ignoring, rejecting
        self.broken, self.old_broken = broken, old_broken

    def note(self, what: Any) -> None:
        self.noted.append(what)
        self.news.set()

    async def has_noted(self, count: int) -> list[Any]:
        """Return what was noted when there are `count` things."""
        async with asyncio.timeout(10):
            while len(self.noted) < count:
                self.news.clear()
                await self.news.wait()
        return self.noted
