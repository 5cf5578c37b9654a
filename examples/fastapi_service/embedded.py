"""The same service with the worker inside: one process, one event loop, and nothing else to start.

    uvicorn embedded:api

Good for a small service and for development. The tasks are still on disk, so they outlive this process, and
workers in other processes may help: `aiotq worker service:tq`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from service import routes, tq


@asynccontextmanager
async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
    """Run a worker while the API serves; leaving it lets running tasks finish and hands the rest back to the queue."""
    async with tq, tq.worker(concurrency=20):
        yield


api = FastAPI(title="Adding numbers, later, here", lifespan=lifespan)
api.include_router(routes)
