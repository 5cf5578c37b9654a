"""An ASGI application served from a thread with a loop of its own: it answers while the worker's loop is blocked."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn
from anyio import to_thread

from ..exceptions import OperationalError

logger = logging.getLogger("aiotq.web")

#: Seconds that requests under way have when it stops.
_LAST: Final = 2


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host` and `port` (0: a free one).

    Raises:
        OperationalError: nobody can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise OperationalError(f"can't listen at {host} port {port}: {exc.strerror or exc}") from exc


@asynccontextmanager
async def serving(application: Any, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Serve `application` at `listener` while entered."""
    config = uvicorn.Config(
        application,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST,
    )
    server = uvicorn.Server(config)
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
