"""The class of flows: tasks that are sent with the row of their journal (`flows/`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..results import ScheduleChange
from ..wire.message import Envelope
from .task import CoroutineTask

P = ParamSpec("P")
R = TypeVar("R")


class FlowTask(CoroutineTask[P, R]):
    """A task that is a durable function: `@app.flow`."""

    #: Returns the write of the row that a call is sent with; the mark of the row that is there, if any, and the time.
    opening: Callable[[Envelope, str, float], ScheduleChange]
