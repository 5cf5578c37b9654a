"""Celery's options of `get`, beside a timeout. One that has no meaning here is refused; the error says what to do."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypedDict

from ..exceptions import InvalidOption

logger = logging.getLogger("aiotq.results")

#: Called with the id of a task and its value (its exception, where `get` does not raise it).
OnResult = Callable[[str, Any], Any]


class GetOptions(TypedDict, total=False):
    """Options of `get` that are Celery's."""

    #: Called with the id and the value of each task that has ended; a function or a coroutine function.
    callback: OnResult | None
    #: Whether the error of a step before this one is raised in place of the step's own, which may be made of it.
    follow_parents: bool
    #: Taken and not needed: results are pushed and not polled for.
    interval: float | None


_TAKEN: Final = GetOptions.__optional_keys__
_INSTEAD: Final[Mapping[str, str]] = {
    "on_interval": "leave it out and run the function beside get, in an asyncio task",
    "no_ack": "leave it out, reading a result does not remove it",
    "disable_sync_subtasks": "leave it out, a task that waits for another one lends it its slot",
}


def check_timeout(timeout: object) -> None:
    """Raise `InvalidOption` if `timeout` is no number of seconds, and not None."""
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and not math.isnan(timeout)
    if timeout is not None and not is_number:
        raise InvalidOption(f"get: timeout must be seconds, or None for no limit, not {timeout!r}")


def check_options(options: Iterable[str]) -> None:
    """Raise for each option that `get` does not take.

    Raises:
        InvalidOption: it is one of Celery's; the text says what to do instead.
        TypeError: it is none.
    """
    for option in options:
        if option == "interval":
            logger.debug("get(interval=…) is not needed: results are pushed")
        elif option in _INSTEAD:
            raise InvalidOption(f"get has no option {option!r}: {_INSTEAD[option]}")
        elif option not in _TAKEN:
            raise TypeError(f"get() got an unexpected keyword argument {option!r}")


async def tell(callback: OnResult | None, task_id: str, value: object) -> None:
    """Call `callback`, if there is one, with the value of a task."""
    if callback is not None:
        told = callback(task_id, value)
        if inspect.isawaitable(told):
            await told
