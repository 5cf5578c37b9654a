"""What Celery's `get` takes beside the options of `get` here: refused, with what to do instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from ..exceptions import InvalidOption

_INSTEAD: Final[Mapping[str, str]] = {
    "interval": "leave it out, results are pushed and not polled for",
    "on_interval": "leave it out and run the function beside get, in an asyncio task",
    "no_ack": "leave it out, reading a result does not remove it",
    "follow_parents": "leave it out, a step that can't run after a failure ends with that failure at once",
    "callback": "call the function with what get returns, or for each result of as_completed()",
    "disable_sync_subtasks": "leave it out, a task that waits for another one lends it its slot",
}


def check_timeout(timeout: object) -> None:
    """Raise `InvalidOption` if `timeout` is no number of seconds, and not None."""
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and not math.isnan(timeout)
    if timeout is not None and not is_number:
        raise InvalidOption(f"get: timeout must be seconds, or None for no limit, not {timeout!r}")


def refuse_options(options: Iterable[str]) -> None:
    """Raise for each option that `get` does not take.

    Raises:
        InvalidOption: it is one of Celery's; the text says what to do instead.
        TypeError: it is none.
    """
    for option in options:
        if option not in _INSTEAD:
            raise TypeError(f"get() got an unexpected keyword argument {option!r}")
        raise InvalidOption(f"get has no option {option!r}: {_INSTEAD[option]}")
