"""aiotq: a task queue for asyncio, with Celery's programming model.

from aiotq import AioTQ

app = AioTQ("proj")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

result = await add.delay(2, 2)      # run `aiotq worker proj:app` somewhere
assert await result == 4
"""

from . import signals, states
from .app import AioTQ
from .canvas import Signature
from .exceptions import (
    AioTQError,
    Ignore,
    MaxRetriesExceededError,
    OperationalError,
    PublishTimeout,
    Reject,
    RemoteError,
    ResultTimeout,
    Retry,
    Snooze,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLifespanError,
)
from .hooks import ExceptionInfo
from .lifespan import WorkerLifespan
from .lookup import find_app
from .middleware import Middleware, OutgoingCall, RunningCall
from .options import CallOptions
from .registry import shared_task
from .request import Request
from .results.handle import AsyncResult, EagerResult, ResultSet, SyncResult, Update
from .routing import Binding, Exchange, Queue
from .task import CurrentTask, Task
from .worker import Worker

__version__ = "0.1.0"

#: Stands for the task that runs in this context.
current_task = CurrentTask()

__all__ = [
    "AioTQ",
    "AioTQError",
    "AsyncResult",
    "Binding",
    "CallOptions",
    "EagerResult",
    "ExceptionInfo",
    "Exchange",
    "Ignore",
    "MaxRetriesExceededError",
    "Middleware",
    "OperationalError",
    "OutgoingCall",
    "PublishTimeout",
    "Queue",
    "Reject",
    "RemoteError",
    "Request",
    "ResultSet",
    "ResultTimeout",
    "Retry",
    "RunningCall",
    "Signature",
    "Snooze",
    "SoftTimeLimitExceeded",
    "SyncResult",
    "Task",
    "TaskError",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "Update",
    "Worker",
    "WorkerLifespan",
    "WorkerLifespanError",
    "__version__",
    "current_task",
    "find_app",
    "shared_task",
    "signals",
    "states",
]
