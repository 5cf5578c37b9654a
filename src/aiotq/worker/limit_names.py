"""The names under which the ledger counts the starts and runs of a call, for the limits of its task that have a key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..exceptions import MessageError
from ..tasks.keys import By, digest, key_value
from ..tasks.task import Task
from ..transport import Delivery
from ..wire.message import Message

logger = logging.getLogger("aiotq.worker")

#: Returns the arguments in a message; raises `MessageError`.
Arguments = Callable[[Message], tuple[Sequence[Any], Mapping[str, Any]]]
#: In place of the key of calls whose keys can't be told: they share a limit.
_UNTOLD: Final = "?"


def _unread(message: Message) -> tuple[Sequence[Any], Mapping[str, Any]]:
    raise MessageError(f"message {message.id} is not read here")


class LimitNames:
    """Names limits of the deliveries of one worker; reads the arguments of those whose limits have keys."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._tasks = tasks
        self.arguments: Arguments = _unread  #: set before anything is read

    def task(self, name: str) -> Task[..., Any]:
        """Return a task that is registered here.

        Raises:
            MessageError: it is not, and so no call of it is read.
        """
        if (task := self._tasks.get(name)) is None:
            raise MessageError(f"no task is registered as {name!r} here")
        return task

    def name(self, kind: str, task: Task[..., Any], limit: str | None, key: By, delivery: Delivery) -> str | None:
        """Return the name of a limit of `task` called `limit`, if it has a name; None: the delivery can't be read."""
        whose = task.name if limit is None else limit
        if key is None:
            return task.name if limit is None else f"{kind}:{whose}"
        try:
            args, kwargs = self.arguments(delivery.message)
        except MessageError:
            return None
        return f"{kind}:{whose}:{self._digest(kind, task, key, delivery.message, args, kwargs)}"

    @staticmethod
    def _digest(
        kind: str, task: Task[..., Any], key: By, message: Message, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str:
        step = message.step
        if step is not None and step.awaits is not None and not step.immutable:
            args = (None, *args)  # its first argument is not known before it runs
        try:
            return digest(task.name, kind, key_value(task, key, args, kwargs))
        except Exception as exc:  # the user's function, or arguments that don't fit: the run says so
            text = "Task %s[%s]: the key of its limit can't be told, it shares one with others: %s"
            logger.warning(text, message.task, message.id, exc)
            return _UNTOLD
