"""Whose a call is: the header from which brokers that can share fairly take its key and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from .message import Message

#: The header of a call that has a share: its key and its cost.
HEADER: Final = "aiotq-share"
#: What a weight may be: a call's cost is one through it.
LEAST_WEIGHT: Final = 0.001
MOST_WEIGHT: Final = 1000.0
#: Characters of a key on the wire.
_LONGEST: Final = 64

#: Whose a call is, and what it costs.
Share = tuple[str, float]


def share_of(message: Message) -> Share | None:
    """Return the share of a call; None if it has none, or nothing that is one: then it is a plain message."""
    headers = message.headers
    if headers is None or HEADER not in headers:
        return None
    given: object = headers[HEADER]
    if not isinstance(given, (list, tuple)):
        return None
    said = cast("Sequence[object]", given)
    key, cost = said if len(said) == 2 else (None, None)
    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST or not isinstance(cost, (int, float)):
        return None
    return (key, float(cost)) if 1 / MOST_WEIGHT <= cost <= 1 / LEAST_WEIGHT else None
