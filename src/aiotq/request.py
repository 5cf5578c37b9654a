"""The call that runs here: what a task sees of its message, and which task is the current one."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final

from ._values import value
from .message import Message


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
    attempt: int = 0  #: retries and snoozes so far
    children: list[str] = field(default_factory=list[str], compare=False)  #: ids of the calls it has made

    @property
    def correlation_id(self) -> str | None:
        """The id, under the name that message brokers have for it."""
        return self.id


_NO_REQUEST: Final = Request()
#: Set by whoever runs a task, read by the task and by the calls it makes.
running_request: ContextVar[Request] = ContextVar("aiotq_request", default=_NO_REQUEST)


def current_request() -> Request:
    """Return the request of the task that runs here; an empty one (`called_directly`) elsewhere."""
    return running_request.get()


def request_of(
    message: Message,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    is_eager: bool = False,
    delivery_info: Mapping[str, Any] | None = None,
    hostname: str | None = None,
) -> Request:
    """Return the request of `message` as the task sees it."""
    return Request(
        id=message.id,
        task=message.task,
        args=args,
        kwargs=kwargs,
        root_id=message.root_id or message.id,
        parent_id=message.parent_id,
        retries=message.retries,
        eta=None if message.eta is None else datetime.fromtimestamp(message.eta, UTC),
        expires=None if message.expires is None else datetime.fromtimestamp(message.expires, UTC),
        timelimit=(message.time_limit, message.soft_time_limit),
        headers=message.headers or {},
        delivery_info=delivery_info or {},
        reply_to=message.reply_to,
        hostname=hostname,
        origin=message.origin,
        is_eager=is_eager,
        called_directly=False,
        ignore_result=message.ignore_result,
        attempt=message.attempt,
    )
