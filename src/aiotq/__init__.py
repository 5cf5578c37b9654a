"""aiotq: a task queue for asyncio, with Celery's programming model.

from aiotq import AioTQ

app = AioTQ("proj")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

result = await add.delay(2, 2)      # run `aiotq worker proj:app` somewhere
assert await result == 4
"""

from . import states
from .app import AioTQ
from .calls import CallOptions
from .canvas import Signature
from .exceptions import (
    AioTQError,
    OperationalError,
    PublishTimeout,
    RemoteError,
    ResultTimeout,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
)
from .lookup import find_app
from .registry import shared_task
from .request import Request
from .results.handle import AsyncResult, EagerResult, ResultSet, SyncResult, Update
from .task import CurrentTask, Task
from .worker import Worker

__version__ = "0.1.0"

#: Stands for the task that runs in this context.
current_task = CurrentTask()

__all__ = [
    "AioTQ",
    "AioTQError",
    "AsyncResult",
    "CallOptions",
    "EagerResult",
    "OperationalError",
    "PublishTimeout",
    "RemoteError",
    "Request",
    "ResultSet",
    "ResultTimeout",
    "Signature",
    "SoftTimeLimitExceeded",
    "SyncResult",
    "Task",
    "TaskError",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "Update",
    "Worker",
    "__version__",
    "current_task",
    "find_app",
    "shared_task",
    "states",
]
