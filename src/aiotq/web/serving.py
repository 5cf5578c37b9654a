"""ASGI applications served: from a thread with a loop of its own, which answers while the worker's loop is blocked, or
in this loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn
from anyio import to_thread

logger = logging.getLogger("aiotq.web")

#: Seconds that requests under way have when it stops.
_LAST: Final = 2


@asynccontextmanager
async def serving(application: Any, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Serve `application` at `listener` from a thread while entered."""
    server = uvicorn.Server(_config(application))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="aiotq.http", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        await to_thread.run_sync(thread.join, 2.0 * _LAST)
        if thread.is_alive():
            logger.warning("the HTTP server does not stop, and is left behind")
        listener.close()


@asynccontextmanager
async def serving_here(
    application: Any, listener: socket.socket, send_away: Callable[[], Awaitable[None]]
) -> AsyncGenerator[None, None]:
    """Serve `application` at `listener` in this loop while entered; `send_away` has it end what goes on without end."""
    server = _Server(_config(application))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]), name="aiotq.http")
            try:
                yield
            finally:
                await send_away()
                server.should_exit = True
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _config(application: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST,
    )
