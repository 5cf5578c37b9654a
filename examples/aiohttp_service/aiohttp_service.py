"""aiohttp handlers that send tasks.

python -m aiohttp.web aiohttp_service:create_app
aiotq worker aiohttp_service:tq
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from aiotq import AioTQ

tq = AioTQ("aiohttp_service")


@tq.task
async def add(x: int, y: int) -> int:
    return x + y


async def send(request: web.Request) -> web.Response:
    given = await request.json()
    result = await add.delay(given["x"], given["y"])
    return web.json_response({"id": result.id}, status=202)


async def look_up(request: web.Request) -> web.Response:
    now = await tq.AsyncResult(request.match_info["task_id"]).look()
    return web.json_response({"state": now.state, "value": now.info if now.state == "SUCCESS" else None})


async def connected(_api: web.Application) -> AsyncIterator[None]:
    """Stay connected while the service runs."""
    async with tq:
        yield


def create_app(_arguments: list[str] | None = None) -> web.Application:
    api = web.Application()
    api.add_routes([web.post("/add", send), web.get("/tasks/{task_id}", look_up)])
    api.cleanup_ctx.append(connected)
    return api
