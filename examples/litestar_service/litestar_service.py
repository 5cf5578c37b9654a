"""Litestar handlers that send tasks.

uvicorn litestar_service:api
aiotq worker litestar_service:tq
"""

from dataclasses import dataclass
from typing import Any

from litestar import Litestar, get, post

from aiotq import AioTQ

tq = AioTQ("litestar_service")


@tq.task
async def add(x: int, y: int) -> int:
    return x + y


@dataclass
class Numbers:
    x: int
    y: int


@post("/add", status_code=202)
async def send(data: Numbers) -> dict[str, str]:
    result = await add.delay(data.x, data.y)
    return {"id": result.id}


@get("/tasks/{task_id:str}")
async def look_up(task_id: str) -> dict[str, Any]:
    now = await tq.AsyncResult(task_id).look()
    return {"state": now.state, "value": now.info if now.state == "SUCCESS" else None}


# `lifespan` connects when the service starts and disconnects when it stops.
api = Litestar([send, look_up], lifespan=[tq.lifespan])
