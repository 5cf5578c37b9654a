"""What a test sees of calls and runs, and how it says what it expected and what there was instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from ..core.values import shown
from ..tasks.task import Task
from ..wire.message import Envelope

T = TypeVar("T")

#: Seconds by which a duration may differ from what is expected: floats of wall time are that coarse.
_CLOSE: Final = 0.001
#: Calls or runs that a message about a failed assertion lists.
_MOST_LISTED: Final = 20

#: A task as assertions take it.
Named = Task[..., Any] | str


@dataclass(frozen=True)
class Sent:
    """A call that the broker accepted, at the time `at`; it runs from `due` on (None: at once)."""

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    id: str
    queue: str
    priority: int
    at: datetime
    due: datetime | None
    expires: datetime | None
    headers: Mapping[str, Any]
    parent_id: str | None
    envelope: Envelope = field(repr=False, compare=False)

    @property
    def countdown(self) -> float | None:
        """Seconds from sending to the time it is due."""
        return None if self.due is None else (self.due - self.at).total_seconds()

    def __str__(self) -> str:
        parts = [as_call(self.task, self.args, self.kwargs)]
        if self.due is not None:
            limited = "" if self.envelope.message.eta is not None else " (put off by a limit)"
            parts.append(f"in {self.due - self.at}{limited}")
        if self.queue != "default":
            parts.append(f"queue {self.queue!r}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Ran:
    """How a run ended, at the time `at`: with `value` (SUCCESS) or `error` (RETRY, FAILURE, REVOKED, IGNORED).

    IGNORED and REJECTED are what the task asked for by `Ignore` and `Reject`; a message that can't be run is REJECTED
    too.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    id: str
    state: str
    value: Any
    error: BaseException | None
    retries: int
    at: datetime

    def __str__(self) -> str:
        said = shown(self.value) if self.error is None else f"{type(self.error).__name__}: {self.error}"
        again = f", retry {self.retries}" if self.retries else ""
        return f"{as_call(self.task, self.args, self.kwargs)}{again} -> {self.state} {said}"


def as_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a call as it is written in Python."""
    words = [*map(shown, args), *(f"{key}={shown(given)}" for key, given in kwargs.items())]
    return f"{name}({', '.join(words)})"


def wall(seconds: float | None) -> datetime | None:
    """Return wall time as an aware datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class Expected:
    """What an assertion looks for among calls or runs: a task, and what is to be true of it."""

    def __init__(
        self, task: Named, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, more: Mapping[str, Any]
    ) -> None:
        self.name = task if isinstance(task, str) else task.name
        self._fn = None if isinstance(task, str) else task
        self._arguments = None if args is None and kwargs is None else (tuple(args or ()), dict(kwargs or {}))
        self._more = {name: wanted for name, wanted in more.items() if wanted is not None}

    def __str__(self) -> str:
        call = f"{self.name}(…)" if self._arguments is None else as_call(self.name, *self._arguments)
        return ", ".join([call, *(f"{name}={_said(wanted)}" for name, wanted in self._more.items())])

    def fits(self, found: Sent | Ran) -> bool:
        """Whether `found` is what is looked for."""
        if found.task != self.name:
            return False
        if self._arguments is not None and self._bound(*self._arguments) != self._bound(found.args, found.kwargs):
            return False
        return all(_fits(wanted, getattr(found, name)) for name, wanted in self._more.items())

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return arguments by the names of their parameters: `add(2, y=2)` is `add(2, 2)`."""
        if self._fn is None:
            return tuple(args), dict(kwargs)
        first, needs = (self._fn,) if self._fn.declared.bind else (), self._fn.dependencies
        signature = inspect.signature(self._fn.fn)
        if needs is not None:  # what a worker gives is in no call
            left = [each for name, each in signature.parameters.items() if name not in needs.names]
            signature = signature.replace(parameters=left)
        try:
            bound = signature.bind(*first, *args, **kwargs)
        except TypeError:
            return tuple(args), dict(kwargs)
        bound.apply_defaults()
        return bound.arguments


def _fits(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, type) and issubclass(wanted, BaseException):
        return isinstance(found, wanted)
    if isinstance(wanted, timedelta):
        wanted = wanted.total_seconds()
    if isinstance(wanted, float | int) and isinstance(found, float):
        return abs(wanted - found) < _CLOSE
    if isinstance(wanted, datetime) and isinstance(found, datetime):
        return abs((wanted - found).total_seconds()) < _CLOSE
    return bool(wanted == found)


def _said(wanted: Any) -> str:
    return (
        wanted.__name__ if isinstance(wanted, type) else str(wanted) if isinstance(wanted, datetime) else repr(wanted)
    )


def matching(
    expected: Expected, among: Sequence[T], fits: Callable[[T], bool], times: int | None, verb: str
) -> list[T]:
    """Return those of `among` that fit, which must be `times` (None: one at least).

    Raises:
        AssertionError: they are not; the text has all there was.
    """
    __tracebackhide__ = True
    found = [each for each in among if fits(each)]
    if len(found) == times or (times is None and found):
        return found
    wanted = "" if times is None else f" {_times(times)}"
    got = "" if times is None else f", but {_times(len(found)) if found else 'never'}"
    raise AssertionError(f"{expected} was not {verb}{wanted}{got}\n{listed(verb, among)}")


def none_matching(expected: Expected, among: Sequence[T], fits: Callable[[T], bool], verb: str) -> None:
    """See that none of `among` fits.

    Raises:
        AssertionError: one does.
    """
    __tracebackhide__ = True
    if found := [each for each in among if fits(each)]:
        raise AssertionError(f"{expected} was {verb}: {found[0]}")


def listed(verb: str, among: Sequence[Any]) -> str:
    """Return one line each, for a message."""
    if not among:
        return f"nothing was {verb}"
    more = [f"  … and {len(among) - _MOST_LISTED} before these"] if len(among) > _MOST_LISTED else []
    return "\n".join([f"{verb}:", *more, *(f"  {each}" for each in among[-_MOST_LISTED:])])


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
