"""An HTTP service that leaves its work to a worker.

`POST /add` sends a task, `GET /results/{id}` tells what became of it, `GET /results/{id}/events` does so as it happens.

Run it as two processes, in this directory (they meet in the SQLite file `aiotq.db`):

    uvicorn service:api
    aiotq worker service:tq

With a token in `DASHBOARD_TOKEN` the dashboard is at `/tasks`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException, Query, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from aiotq import AioTQ, OperationalError, ResultTimeout, Update, states

# The task queue. Where it keeps its tasks is a setting: `AIOTQ_BROKER_URL=…`, by default `sqlite:///aiotq.db`.
tq = AioTQ("service", task_track_started=True)


@tq.task
async def add(x: int, y: int) -> int:
    """The work; it runs in the worker, not here."""
    return x + y


# What goes in and out over HTTP.

Number = Annotated[int, Field(ge=-(2**53), le=2**53, description="as large as JSON numbers can safely be")]


class Numbers(BaseModel):
    x: Number
    y: Number


class Accepted(BaseModel):
    id: str


class Result(BaseModel):
    id: str
    state: str
    value: int | None = None
    error: str | None = None


def in_words(task_id: str, update: Update) -> Result:
    """Return the state of a task as it is told over HTTP."""
    if update.state == states.SUCCESS:
        return Result(id=task_id, state=update.state, value=update.info)
    if isinstance(update.info, BaseException):
        return Result(id=task_id, state=update.state, error=f"{type(update.info).__name__}: {update.info}")
    return Result(id=task_id, state=update.state)


routes = APIRouter()


@routes.post("/add", status_code=status.HTTP_202_ACCEPTED)
async def start(numbers: Numbers, response: Response) -> Accepted:
    """Send the task and answer at once; from here on it is not lost, whatever happens to this process."""
    try:
        result = await add.delay(numbers.x, numbers.y)
    except OperationalError as exc:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "the task queue can't be reached") from exc
    response.headers["Location"] = f"/results/{result.id}"
    return Accepted(id=result.id)


@routes.get("/results/{task_id}")
async def look_up(
    task_id: str,
    wait: Annotated[float, Query(ge=0, le=30, description="seconds to wait for the end of the task")] = 0,
) -> Result:
    """Tell the state of a task, with its value or error once it has ended.

    An id that nobody ever sent, or whose result has expired, is no 404: nothing is written down about a task before
    it starts, so from here it looks like one that still waits, PENDING. A service that must tell them apart
    keeps the ids it has handed out, with whom they belong to, in its own database.
    """
    result = tq.AsyncResult(task_id)
    try:
        if wait:
            with suppress(ResultTimeout):
                await result.get(timeout=wait, propagate=False)
        now = await result.look()
    except OperationalError as exc:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "the results can't be reached") from exc
    return in_words(task_id, now)


@routes.get("/results/{task_id}/events")
async def follow(task_id: str) -> StreamingResponse:
    """Tell each state of a task as it comes, up to the last: server-sent events, for `EventSource` in a browser."""
    result = tq.AsyncResult(task_id)
    try:
        await result.look()
    except OperationalError as exc:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "the results can't be reached") from exc

    async def events() -> AsyncIterator[str]:
        async for update in result.updates():
            yield f"event: {update.state}\ndata: {in_words(task_id, update).model_dump_json()}\n\n"

    # A proxy that keeps the answer until it is whole would make it useless.
    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


# `lifespan` connects when the service starts and disconnects when it stops; what is under way is sent first.
api = FastAPI(title="Adding numbers, later", lifespan=tq.lifespan)
api.include_router(routes)

# Who has the token sees queues, tasks and workers in a browser, and operates them.
if token := os.environ.get("DASHBOARD_TOKEN"):
    api.mount("/tasks", tq.dashboard(auth=token))
