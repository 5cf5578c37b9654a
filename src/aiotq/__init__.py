"""aiotq: a task queue for asyncio, with Celery's programming model.

from aiotq import AioTQ

app = AioTQ("proj")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

result = await add.delay(2, 2)      # run `aiotq worker proj:app` somewhere
assert await result == 4
"""

import sys
from typing import TYPE_CHECKING, Any, cast

from . import signals, states
from .app import AioTQ
from .calling.middleware import Middleware, OutgoingCall, RunningCall
from .canvas import Canvas, Chain, Chord, Group, Signature, chain, chord, group
from .canvas.serialized import signature
from .core.celery_names import MODULE, no_attribute
from .core.version import VERSION
from .exceptions import (
    AioTQError,
    BatchErrors,
    ChordError,
    DuplicateCall,
    EventTimeout,
    FlowChanged,
    FlowEnded,
    FlowError,
    FlowNotFound,
    Ignore,
    JoinLost,
    JournalFull,
    MaxRetriesExceededError,
    OperationalError,
    PublishFailed,
    PublishTimeout,
    Reject,
    RemoteError,
    ResultTimeout,
    Retry,
    Snooze,
    SoftTimeLimitExceeded,
    StreamError,
    StreamGap,
    StreamRestarted,
    TaskError,
    TaskIgnored,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLifespanError,
)
from .flows.context import FlowContext
from .lookup import find_app
from .results.document import Update
from .results.eager_result import EagerResult
from .results.handle import AsyncResult
from .results.sets import GroupResult, ResultSet
from .results.sync_result import SyncGroupResult, SyncResult, SyncResultSet
from .tasks.current_app import CurrentApp
from .tasks.dependencies import INJECTED, Depends
from .tasks.handlers import ExceptionInfo
from .tasks.keys import Debounce, Throttle, Unique
from .tasks.limits import Limit, RateLimit
from .tasks.options import CallOptions
from .tasks.registry import shared_task
from .tasks.request import Request
from .tasks.running import CurrentTask
from .tasks.shares import Fair
from .tasks.streams import Stream
from .tasks.task import Task
from .transport.routing import Binding, Exchange, Queue
from .worker.lifespans import WorkerLifespan

if TYPE_CHECKING:
    from .beat.schedules import crontab, interval, once, solar
    from .canvas.stamping import StampingVisitor
    from .graph.graph import Graph
    from .results.progress import Progress
    from .worker.worker import Worker

__version__ = VERSION

#: Stands for the task that runs in this context.
current_task = CurrentTask()
#: Stands for the app whose task runs in this context, or else for the default one.
current_app = cast(AioTQ, CurrentApp())

__all__ = [
    "INJECTED",
    "AioTQ",
    "AioTQError",
    "AsyncResult",
    "BatchErrors",
    "Binding",
    "CallOptions",
    "Canvas",
    "Chain",
    "Chord",
    "ChordError",
    "Debounce",
    "Depends",
    "DuplicateCall",
    "EagerResult",
    "EventTimeout",
    "ExceptionInfo",
    "Exchange",
    "Fair",
    "FlowChanged",
    "FlowContext",
    "FlowEnded",
    "FlowError",
    "FlowNotFound",
    "Graph",
    "Group",
    "GroupResult",
    "Ignore",
    "JoinLost",
    "JournalFull",
    "Limit",
    "MaxRetriesExceededError",
    "Middleware",
    "OperationalError",
    "OutgoingCall",
    "Progress",
    "PublishFailed",
    "PublishTimeout",
    "Queue",
    "RateLimit",
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
    "StampingVisitor",
    "Stream",
    "StreamError",
    "StreamGap",
    "StreamRestarted",
    "SyncGroupResult",
    "SyncResult",
    "SyncResultSet",
    "Task",
    "TaskError",
    "TaskIgnored",
    "TaskRevokedError",
    "Throttle",
    "TimeLimitExceeded",
    "Unique",
    "Update",
    "Worker",
    "WorkerLifespan",
    "WorkerLifespanError",
    "__version__",
    "chain",
    "chord",
    "crontab",
    "current_app",
    "current_task",
    "find_app",
    "group",
    "interval",
    "once",
    "shared_task",
    "signals",
    "signature",
    "solar",
    "states",
]


def __getattr__(name: str) -> Any:
    """Load what few processes need when it is asked for: it would be a third of the start of all others."""
    match name:
        case "Graph":
            from .graph.graph import Graph  # noqa: PLC0415

            return Graph
        case "Progress":
            from .results.progress import Progress  # noqa: PLC0415

            return Progress
        case "StampingVisitor":
            from .canvas.stamping import StampingVisitor  # noqa: PLC0415

            return StampingVisitor
        case "Worker":
            from .worker.worker import Worker  # noqa: PLC0415

            return Worker
        case "crontab" | "interval" | "once" | "solar":
            from .beat import schedules  # noqa: PLC0415

            return getattr(schedules, name)
        case _ if name in MODULE and cast(Any, sys)._getframe(1).f_code.co_name == "_handle_fromlist":
            # Asked for by `from aiotq import …`, which would put an error of its own in the place of ours.
            raise ImportError(f"cannot import name {name!r} from {__name__!r}: {MODULE[name]}", name=__name__)
        case _:
            raise AttributeError(no_attribute(f"module {__name__!r}", name, MODULE), name=name)
