"""Server-sent events: how a page learns that there is something newer, and what stands beside its menu."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import orjson
from starlette.responses import Response, StreamingResponse

from .desk import Desk
from .visits import Visit
from .words import full

#: Streams at once: each is a connection that stays open.
MOST: Final = 500
#: Milliseconds after which a browser that lost the stream tries again.
_AGAIN: Final = 2_000
#: Seconds that a stream lasts: then the browser begins another one. A server that is to stop waits for those it has.
_LASTS: Final = 20.0


async def stream(desk: Desk, visit: Visit) -> Response:
    """Return a stream that says each time there is a new look, and what the menu counts then."""
    if desk.streams >= MOST:
        return Response("too many open pages", 503, {"retry-after": "30"})
    headers = {"x-accel-buffering": "no", "cache-control": "no-store"}
    return StreamingResponse(_events(desk), media_type="text/event-stream", headers=headers)


async def _events(desk: Desk) -> AsyncGenerator[bytes, None]:
    desk.streams += 1
    try:
        yield f"retry: {_AGAIN}\n\n".encode()
        ends = asyncio.get_running_loop().time() + _LASTS
        async with desk.watch.following() as moved:
            while True:
                try:
                    async with asyncio.timeout_at(ends):
                        look = await moved()
                except TimeoutError:
                    look = None
                if look is None:
                    yield b"event: bye\ndata: 0\n\n"
                    return
                told = {"at": full(look.at), "nav": {key: count for key, *_, count, _ in desk.nav(look)}}
                yield f"event: look\nid: {look.at:.3f}\ndata: {orjson.dumps(told).decode()}\n\n".encode()
    finally:
        desk.streams -= 1
