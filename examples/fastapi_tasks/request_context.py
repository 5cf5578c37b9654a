"""Who asked, and in which request: known in a route, in the tasks that it calls, and in those that they call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from aiotq import AsyncResult, Middleware, OutgoingCall, RunningCall

request_id: ContextVar[str] = ContextVar("request_id", default="")
user: ContextVar[str] = ContextVar("user", default="")


class RequestContext:
    """For the API: notes what a request's headers say. (In front of it stands what checks who the user is.)"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            request_id.set(headers.get("x-request-id") or uuid4().hex)
            user.set(headers.get("x-user", ""))
        await self.app(scope, receive, send)


class CarriesContext(Middleware):
    """For the task queue: gives calls that context, and takes it from them where they run."""

    async def send(
        self,
        calls: Sequence[OutgoingCall],
        forward: Callable[[Sequence[OutgoingCall]], Awaitable[Sequence[AsyncResult[Any]]]],
    ) -> Sequence[AsyncResult[Any]]:
        context = {"request_id": request_id.get(), "user": user.get()}
        return await forward([call.with_headers(**context) for call in calls])

    async def run(self, call: RunningCall, forward: Callable[[RunningCall], Awaitable[Any]]) -> Any:
        request_id.set(call.headers.get("request_id", ""))
        user.set(call.headers.get("user", ""))
        return await forward(call)


def get_user() -> str:
    """Return who asked: a dependency of routes and of tasks."""
    return user.get()
