"""What Celery's own tools speak where a RabbitMQ is shared: its exchanges for events, commands and answers.

A backend that has them keeps this contract; what is said through them is JSON, as Celery's defaults have it.

Source: Celery, `celery.events.dispatcher`; Kombu, `kombu.pidbox`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast

from ..core.values import value

#: Letters of a name of an exchange or a queue.
_LONGEST: Final = 255


#: The commands that Celery's workers know as well, with what they call their arguments.
_THEIRS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("ping", "active", "reserved", "registered", "active_queues", "stats", "report", "clock"), ()),
    **dict.fromkeys(("scheduled", "revoked", "conf", "shutdown", "enable_events", "disable_events", "heartbeat"), ()),
    "rate_limit": ("task_name", "rate_limit"),
    "time_limit": ("task_name", "soft", "hard"),
    "pool_grow": ("n",),
    "pool_shrink": ("n",),
    "autoscale": ("max", "min"),
    "add_consumer": ("queue",),
    "cancel_consumer": ("queue",),
}
#: What is called otherwise there.
_CALLED: Final[Mapping[str, str]] = {"rate": "rate_limit"}


@value
class CeleryCommand:
    """A command of Celery's, as it came."""

    method: str
    arguments: Mapping[str, Any]
    destination: Sequence[str] | None  #: names; None: all
    pattern: str | None  #: a glob of names, in place of that
    reply_to: tuple[str, str] | None  #: exchange and routing key
    ticket: str | None
    is_ours: bool  #: sent by aiotq, whose workers hear of it on the bus


class CeleryMail(abc.ABC):
    """Celery's exchanges in one place. All but `close` raise `OperationalError` when it can't be reached."""

    @abc.abstractmethod
    async def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish events; those that nobody wants are gone."""

    @abc.abstractmethod
    def serving(self, take: Callable[[CeleryCommand], None]) -> AbstractAsyncContextManager[None]:
        """Have `take` told the commands to all workers, while it is entered; nothing is left when it is left."""

    @abc.abstractmethod
    async def reply(self, command: CeleryCommand, answers: Mapping[str, Any]) -> None:
        """Answer who sent `command`, if he wants it; `answers` by the names of workers."""

    @abc.abstractmethod
    async def tell(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Command all of Celery's workers that are there now; nobody answers."""

    @abc.abstractmethod
    def asking(
        self,
        method: str,
        arguments: Mapping[str, Any],
        destination: Sequence[str] | None,
        heard: Callable[[Mapping[str, Any]], None],
    ) -> AbstractAsyncContextManager[None]:
        """Ask Celery's workers, and have `heard` told what they answer, by their names, while it is entered."""


def theirs(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the arguments by which Celery's workers know a command of ours; None: they have none like it."""
    if name == "query_task":
        return {"ids": list(args)}
    names = _THEIRS.get(name)
    if names is None:
        return None
    given = {**dict(zip(names, args, strict=False)), **{_CALLED.get(key, key): each for key, each in kwargs.items()}}
    return {key: each for key, each in given.items() if key in names}


async def tell_revoked(
    mail: CeleryMail | None, ids: Sequence[str], stamps: Mapping[str, Sequence[Any]], *, terminate: bool
) -> None:
    """Have Celery's workers not run these calls, nor those with one of a stamp's values; None: there are none.

    Raises:
        OperationalError: they can't be told.
    """
    if mail is None:
        return
    if ids:
        await mail.tell("revoke", {"task_id": list(ids), "terminate": terminate})
    if stamps:
        headers = {name: list(values) for name, values in stamps.items()}
        await mail.tell("revoke_by_stamped_headers", {"headers": headers, "terminate": terminate})


def command_in(body: object) -> CeleryCommand | None:
    """Return the command in a message's body; None: it is none."""
    if not isinstance(body, dict):
        return None
    said = cast("dict[str, Any]", body)
    arguments: object = said.get("arguments") or {}
    method, destination = said.get("method"), said.get("destination")
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST or not isinstance(arguments, dict):
        return None
    if destination is not None and not _are_texts(destination):
        return None
    pattern = said.get("pattern") if said.get("matcher") in (None, "glob") else ""  # one that fits nobody
    ticket = said.get("ticket")
    return CeleryCommand(
        method,
        cast("dict[str, Any]", arguments),
        destination or None,
        pattern if isinstance(pattern, str) else None,
        _address(said.get("reply_to")),
        ticket if isinstance(ticket, str) else None,
        said.get("aiotq") is True,
    )


def _address(given: Any) -> tuple[str, str] | None:
    match given:
        case {"exchange": str(exchange), "routing_key": str(key)} if max(len(exchange), len(key)) <= _LONGEST:
            return exchange, key
        case _:
            return None


def _are_texts(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(each, str) for each in cast("list[object]", given))
