"""Tasks over HTTP: start one, look at it, follow it, cancel it.

uvicorn report_api:api --workers 2
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, status
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from reports import Database, report, tq
from request_context import RequestContext

from aiotq import OperationalError, Task, Update
from aiotq.exceptions import InvalidArguments

#: What may be asked for over HTTP; a task is not public because it exists.
PUBLIC: Final[Mapping[str, Task[..., Any]]] = {"report": report}


class Accepted(BaseModel):
    id: str


class Status(BaseModel):
    id: str
    state: str
    info: Any = None
    error: str | None = None

    @classmethod
    def of(cls, task_id: str, update: Update) -> Status:
        if isinstance(update.info, BaseException):
            return cls(id=task_id, state=update.state, error=f"{type(update.info).__name__}: {update.info}")
        return cls(id=task_id, state=update.state, info=jsonable_encoder(update.info))


routes = APIRouter(prefix="/tasks", tags=["tasks"])


@routes.post("/{name}", status_code=status.HTTP_202_ACCEPTED)
async def start(name: str, arguments: dict[str, Any], response: Response) -> Accepted:
    """Send a call with these arguments. They are plain data here; the worker makes models of them."""
    if name not in PUBLIC:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no task {name!r}")
    try:
        result = await PUBLIC[name].apply_async(kwargs=arguments)
    except InvalidArguments as exc:
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, str(exc)) from exc
    response.headers["Location"] = f"/tasks/{result.id}"
    return Accepted(id=result.id)


@routes.get("/{task_id}")
async def look_up(task_id: str) -> Status:
    """Tell the state of a task; PENDING if it waits, or if there is none."""
    return Status.of(task_id, await tq.AsyncResult(task_id).look())


@routes.get("/{task_id}/events")
async def follow(task_id: str) -> StreamingResponse:
    """Tell each state, and each progress, as it comes: server-sent events, for `EventSource` in a browser."""
    result = tq.AsyncResult(task_id)
    await result.look()  # what can't be reached is an error now, and not within the stream

    async def events() -> AsyncIterator[str]:
        async for update in result.updates():
            yield f"event: {update.state}\ndata: {Status.of(task_id, update).model_dump_json()}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@routes.delete("/{task_id}", status_code=status.HTTP_204_NO_CONTENT)
async def cancel(task_id: str) -> None:
    """Have a task not start, or end where it is; one that has ended stays as it is."""
    await tq.AsyncResult(task_id).revoke(terminate=True)


@asynccontextmanager
async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
    """The service's own lifespan: what it opens stands beside `tq`. If that is all, `lifespan=tq.lifespan` does."""
    async with tq:
        yield


api = FastAPI(title="Reports", lifespan=lifespan)
api.add_middleware(RequestContext)
api.include_router(routes)


@api.exception_handler(OperationalError)
async def unreachable(_request: Request, exc: OperationalError) -> JSONResponse:
    """Answer for all routes when the broker can't be reached."""
    return JSONResponse({"detail": "the task queue can't be reached"}, status.HTTP_503_SERVICE_UNAVAILABLE)


@api.get("/reports")
def reports(database: Database) -> list[dict[str, str]]:
    """All reports, by the dependency that the task has too."""
    rows = database.execute("select customer, total, made_for from reports order by customer")
    return [dict(zip(("customer", "total", "made_for"), row, strict=True)) for row in rows]
