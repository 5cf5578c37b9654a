"""Keys of calls as users declare them: which calls are one (`unique`), which of many count (`debounce`, `throttle`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol, cast

import orjson

from ..core.values import shown, value
from ..exceptions import InvalidOption
from ..wire.message import LONGEST_LIMIT, is_name

#: What a key is made of: one parameter, several, a function of the arguments, or all of them (None).
By = str | tuple[str, ...] | Callable[..., object] | None

#: The options of a call that give it a key.
KEYED: Final = frozenset({"unique", "debounce", "throttle", "idempotency_key"})
#: The names of tasks whose declarations give their calls keys, in all apps of this process: nearly always none.
keyed_tasks: Final[set[str]] = set()

_DAY: Final = 86_400.0
_UNTIL: Final = '"started", "done" or seconds'
_CONFLICTS: Final = ("return", "reject", "replace")


class Callee(Protocol):
    """A task, as its keys need it."""

    @property
    def name(self) -> str: ...

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]: ...


@value
class Unique:
    """Of the calls with one key there is one at a time: `@app.task(unique=Unique(by="user_id"))`.

    `by` says what makes two calls the same: a parameter's name, several, or a function of the arguments; by default all
    arguments. The key is taken `until` the call is "done" (it has ended, its retries too), has "started", or for so
    many seconds. A call whose key is taken is none: `on_conflict` "return" gives the handle of the one under way,
    "reject" raises `DuplicateCall`, and "replace" gives the one that waits these arguments (only until it "started").

    Runs of one key are never under way at the same time, however their calls came. `lifetime`: seconds after which a
    key is free again although its call never ended, since its queue was purged: longer than calls wait and run.
    """

    by: By = None
    until: Literal["started", "done"] | float = "done"
    on_conflict: Literal["return", "reject", "replace"] = "return"
    lifetime: float = _DAY

    def __post_init__(self) -> None:
        check_by("Unique", "by", self.by)
        if self.until not in ("started", "done"):
            _check_seconds("Unique", "until", self.until, _UNTIL)
        if self.on_conflict not in _CONFLICTS:
            raise InvalidOption(f"Unique: on_conflict must be one of {', '.join(_CONFLICTS)}, not {self.on_conflict!r}")
        if self.on_conflict == "replace" and self.until != "started":
            raise InvalidOption(
                'Unique: on_conflict="replace" needs until="started": a call that has begun can\'t be replaced, and '
                "the next one with its key waits until it has ended"
            )
        _check_seconds("Unique", "lifetime", self.lifetime)


@value
class Debounce:
    """Of calls with one key that come in a burst the last one counts: `debounce=Debounce(5, by="document")`.

    It runs when there was no further call for `seconds`, at most `max_wait` after the first. All of them are one call,
    and have its result.
    """

    seconds: float
    by: By = None
    max_wait: float | None = None

    def __post_init__(self) -> None:
        check_by("Debounce", "by", self.by)
        _check_seconds("Debounce", "seconds", self.seconds)
        if self.max_wait is not None:
            _check_seconds("Debounce", "max_wait", self.max_wait)
            if self.max_wait < self.seconds:
                raise InvalidOption(
                    f"Debounce: max_wait ({self.max_wait:g}) is shorter than the {self.seconds:g} s after which it runs"
                )


@value
class Throttle:
    """Of calls with one key there is one in so many `seconds`, the first: `throttle=Throttle(60, by="user_id")`.

    The others are none, and have its result.
    """

    seconds: float
    by: By = None

    def __post_init__(self) -> None:
        check_by("Throttle", "by", self.by)
        _check_seconds("Throttle", "seconds", self.seconds)


def names_of(by: By) -> Sequence[str]:
    """Return the parameters that a key is made of, if it names any."""
    if by is None or callable(by):
        return ()
    return (by,) if isinstance(by, str) else by


def key_value(callee: Callee | str, by: By, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Return what the key of a call is made of.

    Raises:
        InvalidOption: it has no such argument, or (raised by the user's function) anything else.
        InvalidArguments: the arguments don't fit.
    """
    if callable(by):
        return by(*args, **kwargs)
    if isinstance(callee, str):  # a task that is not known here: its parameters aren't either
        if by is None:
            return [list(args), dict(kwargs)]
        name, bound = callee, kwargs
    else:
        name, bound = callee.name, callee.bound(args, kwargs)
    if by is None:
        return bound
    missing = [each for each in names_of(by) if each not in bound]
    if missing:
        raise InvalidOption(f"{name}: its key is made of the argument {missing[0]!r}, which this call does not have")
    return bound[by] if isinstance(by, str) else [bound[each] for each in by]


def digest(name: str, option: str, given: object) -> str:
    """Return `given` as a short text that is the same in all processes.

    Raises:
        InvalidOption: it has no form as JSON.
    """
    return blake2b(plain_json(name, option, given), digest_size=16).hexdigest()


def plain_json(name: str, option: str, given: object) -> bytes:
    """Return `given` as JSON that is the same in all processes; raises `InvalidOption` if it has no such form."""
    try:
        return orjson.dumps(given, default=_plain, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError as exc:
        raise InvalidOption(
            f"{name}: {option}: no key can be made of {shown(given)} ({exc}): name other parameters, or give by= a "
            "function that returns plain data"
        ) from None


def _plain(given: object) -> object:
    if isinstance(given, (set, frozenset)):
        items = [orjson.dumps(each, default=_plain) for each in cast("set[object]", given)]
        return [item.decode() for item in sorted(items)]
    if isinstance(given, (bytes, bytearray)):
        return given.hex()
    from decimal import Decimal  # noqa: PLC0415  # it takes longer to load than all else here, for few
    from pathlib import PurePath  # noqa: PLC0415

    if isinstance(given, (Decimal, PurePath, complex)):
        return str(given)
    if callable(dump := getattr(given, "model_dump", None)):  # a pydantic model
        return dump(mode="json")
    raise TypeError(f"a {type(given).__name__} has no form in JSON")


def check_by(kind: str, name: str, by: object) -> None:
    """Raise `InvalidOption` if `by` can't say what a key is made of."""
    if by is None or callable(by) or (isinstance(by, str) and is_name(by)):
        return
    if isinstance(by, tuple) and by and all(map(is_name, cast("tuple[object, ...]", by))):
        return
    raise InvalidOption(f"{kind}: {name} must be a parameter's name, a tuple of them, or a function, not {by!r}")


def _check_seconds(kind: str, name: str, given: object, words: str = "seconds") -> None:
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not is_number or not 0 < cast(float, given) <= LONGEST_LIMIT:
        raise InvalidOption(f"{kind}: {name} must be {words}, more than 0, at most ten years, not {given!r}")


def check_parameters(name: str, by: By, parameters: Sequence[str]) -> None:
    """Raise `InvalidOption` if a key is made of something that is no parameter of its task."""
    for each in names_of(by):
        if each not in parameters:
            raise InvalidOption(
                f"task {name}: a key is made of {each!r}, which is none of its parameters ({', '.join(parameters)})"
            )
