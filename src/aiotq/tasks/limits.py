"""Limits as users declare them: starts in a time and runs at once, of a task, by key, or of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..core.schedules import seconds_apart
from ..core.values import value
from ..exceptions import InvalidOption
from ..wire.message import is_name
from .keys import By, check_by


@value
class RateLimit:
    """So many starts in a time: `rate_limit=RateLimit("100/m", key="account_id", burst=10)`.

    `key` says what is limited by itself: a parameter's name, several, or a function of the arguments; by default all
    calls together. After a pause `burst` starts come at once. Tasks whose limits have the same `name` share one.
    """

    rate: str | float
    key: By = None
    burst: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        check_by("RateLimit", "key", self.key)
        _check_name("RateLimit", self.name)
        if not _is_count(self.burst):
            raise InvalidOption(f"RateLimit: burst must be a whole number, 1 or more, not {self.burst!r}")
        try:
            apart = seconds_apart(self.rate)
        except (TypeError, ValueError):
            apart = None
        if apart is None or isinstance(self.rate, bool):
            raise InvalidOption(f'RateLimit: a rate is "100/m", "5/h" or 10 (a second), not {self.rate!r}')

    @property
    def interval(self) -> float:
        """Seconds between starts."""
        return seconds_apart(self.rate) or 0.0


@value
class Limit:
    """So many runs at once: `max_concurrency=Limit(3, key="database")`; `key` and `name` as of a `RateLimit`."""

    most: int
    key: By = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_by("Limit", "key", self.key)
        _check_name("Limit", self.name)
        if not _is_count(self.most):
            raise InvalidOption(f"Limit: so many runs must be a whole number, 1 or more, not {self.most!r}")


def rate_limits_of(declared: str | float | RateLimit | Sequence[RateLimit] | None) -> Sequence[RateLimit]:
    """Return the limits among what a task declares that are more than one rate of all its calls."""
    if isinstance(declared, RateLimit):
        return (declared,)
    return tuple(cast("Sequence[RateLimit]", declared)) if isinstance(declared, (tuple, list)) else ()


def limits_of(declared: int | Limit | Sequence[Limit] | None) -> Sequence[Limit]:
    """Return the limits of runs at once that a task declares."""
    if declared is None:
        return ()
    if isinstance(declared, int):
        return (Limit(declared),)
    return (declared,) if isinstance(declared, Limit) else tuple(declared)


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


def _check_name(kind: str, name: object) -> None:
    if name is not None and not is_name(name):
        raise InvalidOption(f"{kind}: name must be a string of printable characters, not {name!r}")
