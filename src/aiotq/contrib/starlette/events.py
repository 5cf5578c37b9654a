"""A task's stream as server-sent events.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any, Final, cast

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse

from ...core.aio import finish, start
from ...exceptions import CallError, EncodeError, StreamGap, StreamRestarted
from ...results.handle import AsyncResult
from ...results.segments import Place
from ...results.stream_reader import ChunkStream, Start

#: Seconds without a chunk after which a comment is sent, so that no proxy closes the connection.
_KEPT_ALIVE_EVERY: Final = 15.0
#: Seconds that leaving the stream may take.
_LEAVING: Final = 5.0
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse(result: AsyncResult[Any], request: Request, *, begin: Start = "start") -> StreamingResponse:
    """Return the chunks of `result`'s task as server-sent events, from `begin` on or behind the browser's last one.

        @api.get("/answers/{id}")
        async def answer(id: str, request: Request) -> Response:
            return sse(app.AsyncResult(id), request)

    `data` is JSON, `id` the place. Further events: `restart`, `gap`, `end`, and `error` with type and message. A page
    closes its `EventSource` at `end` and `error`. Who may read a stream is for the caller to decide.
    """
    last = request.headers.get("last-event-id")
    with suppress(CallError):  # somebody else's id: from the beginning
        if last is not None:
            Place.of(last)
            return _response(result.stream(after=last))
    return _response(result.stream(begin))


def _response(stream: ChunkStream[Any]) -> StreamingResponse:
    return StreamingResponse(_events(stream), media_type="text/event-stream", headers=_HEADERS)


async def _events(stream: ChunkStream[Any]) -> AsyncGenerator[bytes, None]:
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            if coming is None:
                following = cast("Coroutine[Any, Any, Any]", stream.__anext__())
                coming = start(following, name="aiotq.sse", context=contextvars.copy_context())
            await asyncio.wait({coming}, timeout=_KEPT_ALIVE_EVERY)
            if not coming.done():
                yield b": still there\n\n"
                continue
            done, coming = coming, None
            try:
                yield _event(done.result(), place=stream.place)
            except StopAsyncIteration:
                yield _event(None, "end")
                return
            except StreamRestarted:
                yield _event(None, "restart", place=stream.place)
            except StreamGap as gap:
                yield _event({"missed": gap.missed}, "gap")
            except Exception as exc:  # the task's own, or what is wrong with reading
                yield _event({"type": type(exc).__name__, "message": str(exc)}, "error")
                return
    finally:
        await finish(_left(stream, coming), _LEAVING)


async def _left(stream: ChunkStream[Any], coming: asyncio.Task[Any] | None) -> None:
    if coming is not None:
        coming.cancel()
        await asyncio.wait({coming})
    await stream.aclose()


def _event(data: Any, name: str | None = None, *, place: str | None = None) -> bytes:
    lines = [b"event: %b" % name.encode()] if name is not None else []
    if place is not None:
        lines.append(b"id: %b" % place.encode())
    try:
        lines.append(b"data: %b" % orjson.dumps(data))
    except orjson.JSONEncodeError as exc:
        raise EncodeError(f"a chunk has no form in JSON, which events need: {exc}") from exc
    return b"\n".join(lines) + b"\n\n"
