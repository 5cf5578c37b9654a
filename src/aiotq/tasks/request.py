"""The request: what a running task knows about its call, and which task is the running one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from ..core.values import value
from ..wire.message import Message, Step


class Slot(Protocol):
    """The slot of a running task in its worker. A task that awaits another call's result lends it meanwhile."""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        ...

    def lend(self, *ids: str) -> None:
        """Let another task run in this slot while this one waits for the results of the calls `ids`."""

    async def take_back(self, *ids: str) -> None:
        """Wait until a slot is free again; `ids` as they were given to `lend`."""

    def take_back_now(self, *ids: str) -> None:
        """Take a slot at once, for cleaning up, even if none is free."""


class FollowingCalls(Protocol):
    """The next steps of a call in its workflow, as in its message."""

    @property
    def callbacks(self) -> Sequence[Any]: ...

    @property
    def errbacks(self) -> Sequence[Any]: ...

    @property
    def rest(self) -> Sequence[Any]: ...


#: The headers of a call that was sent for a periodic task: its name (as in Celery), and when it was due.
PERIODIC_NAME: Final = "periodic_task_name"
PERIODIC_DUE: Final = "periodic_task_due"


@value
class Periodic:
    """The occurrence of a periodic task that a call is: the name of its entry, and when it was due (aware UTC)."""

    entry: str
    due: datetime


@value(eq=False)
class Request:
    """One call while it runs (`self.request`). Times are aware UTC."""

    id: str | None = None
    task: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    root_id: str | None = None
    parent_id: str | None = None
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    timelimit: tuple[float | None, float | None] = (None, None)  #: hard, soft
    headers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    delivery_info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reply_to: str | None = None
    hostname: str | None = None
    origin: str | None = None
    is_eager: bool = False
    called_directly: bool = True
    ignore_result: bool = False
    utc: bool = True
    attempt: int = 0  #: retries, snoozes and replacements so far
    children: list[str] = field(default_factory=list[str], compare=False)  #: ids of the calls that it has made
    step: Step | None = None  #: its position in its workflow
    stamps: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Any])  #: its labels, each with its values
    replaced_task_nesting: int = 0  #: number of replacements (`self.replace`) before this run
    mode: str = "once"  #: "map" and "starmap" call the function once for each item
    events: Sequence[Mapping[str, Any]] = field(default=(), compare=False, repr=False)  #: told in a child process
    added: list[Any] = field(default_factory=list[Any], compare=False)  #: signatures to add to its chord
    runner: Any = field(default=None, compare=False, repr=False)  #: the task itself
    slot: Slot | None = field(default=None, compare=False, repr=False)  #: its slot in the worker
    following: FollowingCalls | None = field(default=None, compare=False, repr=False)  #: its next steps, if known
    session: Any = field(default=None, compare=False, repr=False)  #: of a transactional task: with its transaction

    @property
    def periodic(self) -> Periodic | None:
        """The occurrence of a periodic task that this call is; None for other calls."""
        name, due = self.headers.get(PERIODIC_NAME), self.headers.get(PERIODIC_DUE)
        if not isinstance(name, str) or not isinstance(due, str):
            return None
        try:
            return Periodic(name, datetime.fromisoformat(due))
        except ValueError:  # somebody else's header
            return None

    @property
    def callbacks(self) -> Sequence[Any]:
        """The signatures that are called with its value; empty in child processes."""
        return () if self.following is None else self.following.callbacks

    @property
    def errbacks(self) -> Sequence[Any]:
        """The signatures that are called if it fails; empty in child processes."""
        return () if self.following is None else self.following.errbacks

    @property
    def chain(self) -> Sequence[Any]:
        """The later steps of its chain that its message carries, the next one first; empty in child processes."""
        return () if self.following is None else self.following.rest

    @property
    def time_limit(self) -> float | None:
        """The hard time limit that its caller gave it, in seconds."""
        return self.timelimit[0]

    @property
    def soft_time_limit(self) -> float | None:
        """The soft time limit that its caller gave it, in seconds."""
        return self.timelimit[1]

    @property
    def chord(self) -> str | None:
        """The id of the chord, if it is in a chord's header."""
        return None if self.step is None or self.step.chord_member is None else self.step.chord_member[0]

    @property
    def properties(self) -> Mapping[str, Any]:
        """The properties of its message, under their AMQP names."""
        return {
            "correlation_id": self.id,
            "reply_to": self.reply_to,
            "priority": self.delivery_info.get("priority"),
        }

    @property
    def stamped_headers(self) -> Sequence[str]:
        """The names of its stamps."""
        return tuple(self.stamps)

    @property
    def group(self) -> str | None:
        """The id of the group it belongs to."""
        return None if self.step is None else self.step.group_id

    @property
    def group_index(self) -> int | None:
        """The index of its member in the group, from 0."""
        return None if self.step is None else self.step.group_index

    @property
    def loglevel(self) -> int:
        """The effective level of the logger `aiotq.task`."""
        return _log.getEffectiveLevel()

    @property
    def logfile(self) -> str | None:
        """The file that the logger `aiotq.task` writes to; None if there is none."""
        logger: logging.Logger | None = _log
        while logger is not None:
            for handler in logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    return handler.baseFilename
            logger = logger.parent if logger.propagate else None
        return None

    @property
    def correlation_id(self) -> str | None:
        """The id, under its AMQP name."""
        return self.id


_log: Final = logging.getLogger("aiotq.task")
_NO_REQUEST: Final = Request()
#: The only context variable that a run sets: one costs a tenth of the whole work for a no-op call.
running_request: ContextVar[Request] = ContextVar("aiotq_request", default=_NO_REQUEST)


def request_of(
    message: Message,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    is_eager: bool = False,
    delivery_info: Mapping[str, Any] | None = None,
    hostname: str | None = None,
    mode: str = "once",
    runner: Any = None,
    slot: Slot | None = None,
    following: FollowingCalls | None = None,
) -> Request:
    """Return the request of `message`."""
    # By place, in the order of the fields: by name it takes twice as long, and each run makes one.
    return Request(
        message.id,
        message.task,
        args,
        kwargs,
        message.root_id or message.id,
        message.parent_id,
        message.retries,
        None if message.eta is None else datetime.fromtimestamp(message.eta, UTC),
        None if message.expires is None else datetime.fromtimestamp(message.expires, UTC),
        (message.time_limit, message.soft_time_limit),
        message.headers or {},
        delivery_info or {},
        message.reply_to,
        hostname,
        message.origin,
        is_eager,
        False,  # called_directly
        message.ignore_result,
        True,  # utc
        message.runs_before,
        [],  # children
        message.step,
        message.stamps or {},
        message.replacements,
        mode,
        (),  # events
        [],  # added
        runner,
        slot,
        following,
    )


def failed_request(fields: Mapping[str, Any]) -> Request:
    """Return the request of a failed call for its error callbacks; `fields` are from their message."""
    hard, soft = fields.get("timelimit") or (None, None)
    return Request(
        id=fields.get("id"),
        task=fields.get("task"),
        args=tuple(fields.get("args") or ()),
        kwargs=fields.get("kwargs") or {},
        root_id=fields.get("root_id"),
        parent_id=fields.get("parent_id"),
        retries=fields.get("retries", 0),
        timelimit=(hard, soft),
        headers=fields.get("headers") or {},
        stamps=fields.get("stamps") or {},
        reply_to=fields.get("reply_to"),
        hostname=fields.get("hostname"),
        origin=fields.get("origin"),
        called_directly=False,
        attempt=fields.get("attempt", 0),
        step=Step(fields.get("group"), fields.get("group_index")),
    )
