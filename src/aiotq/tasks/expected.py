"""The values that each option of a call, and most options of tasks, may have."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from ..core.schedules import seconds_apart
from ..wire.message import LONGEST_LIMIT, MAX_NAME, is_name
from .keys import Debounce, Throttle, Unique
from .limits import Limit, RateLimit
from .shares import is_fair_key


@dataclass(frozen=True, slots=True)
class Expected:
    """The values that an option may have: for the check, and in words for the error."""

    words: str
    types: tuple[type, ...]
    holds: Callable[[Any], bool] = lambda _: True

    def accepts(self, given: object) -> bool:
        if isinstance(given, bool) and bool not in self.types:
            return False
        return isinstance(given, self.types) and self.holds(given)


def is_rate(given: Any) -> bool:
    """Whether `given` is a valid `rate_limit`."""
    if isinstance(given, tuple):
        return all(isinstance(each, RateLimit) for each in cast("tuple[object, ...]", given))
    if isinstance(given, RateLimit):
        return True
    try:
        seconds_apart(given)
    except ValueError:
        return False
    return True


def is_concurrency(given: Any) -> bool:
    """Whether `given` is a valid `max_concurrency`."""
    if isinstance(given, tuple):
        return all(isinstance(each, Limit) for each in cast("tuple[object, ...]", given))
    return isinstance(given, Limit) or given >= 1


def takes(given: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with `count` arguments, as far as its signature tells."""
    try:
        inspect.signature(given).bind(*(None,) * count)
    except TypeError:
        return False
    except ValueError:  # not written in Python: it has no signature
        return True
    return True


def _is_exception(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, BaseException)


def is_retry_policy(given: Mapping[str, Any]) -> bool:
    """Whether `given` is a valid `retry_policy`."""
    for name, each in given.items():
        match name:
            case "max_retries":
                fits = each is None or (type(each) is int and each >= 0)
            case "interval_start" | "interval_step" | "interval_max":
                fits = type(each) in {int, float} and 0 <= each <= LONGEST_LIMIT
            case "retry_errors":
                fits = each is None or (
                    isinstance(each, (tuple, list)) and all(map(_is_exception, cast("Sequence[object]", each)))
                )
            case _:
                fits = False
        if not fits:
            return False
    return True


NAME: Final = Expected(f"a string of 1 to {MAX_NAME} printable characters", (str,), is_name)
SECONDS: Final = Expected(
    "seconds, more than 0, at most ten years", (int, float), lambda given: 0 < given <= LONGEST_LIMIT
)
DELAY: Final = Expected("seconds, 0 or more", (int, float), lambda given: 0 <= given < math.inf)
YES_OR_NO: Final = Expected("true or false", (bool,))
UNIQUE: Final = Expected("a Unique(…)", (Unique,))
DEBOUNCE: Final = Expected(
    "seconds, more than 0, or a Debounce(…)",
    (int, float, Debounce),
    lambda given: isinstance(given, Debounce) or 0 < given <= LONGEST_LIMIT,
)
THROTTLE: Final = Expected(
    "seconds, more than 0, or a Throttle(…)",
    (int, float, Throttle),
    lambda given: isinstance(given, Throttle) or 0 < given <= LONGEST_LIMIT,
)
FAIR_KEY: Final = Expected("a parameter's name, a tuple of them, a function, or a Fair(…)", (object,), is_fair_key)
OF_CALLS: Final[Mapping[str, Expected]] = {
    "task_id": NAME,
    "countdown": Expected("seconds or a timedelta", (int, float), lambda given: -math.inf < given < math.inf),
    "eta": Expected("a datetime", (datetime,)),
    "expires": Expected(
        "seconds, a timedelta or a datetime",
        (int, float, datetime),
        lambda given: isinstance(given, datetime) or -math.inf < given < math.inf,
    ),
    "queue": NAME,
    "exchange": Expected(
        "the name of an exchange; its type is declared in task_queues",
        (str,),
        lambda given: not given or is_name(given),
    ),
    "routing_key": Expected(f"a string of at most {MAX_NAME} characters", (str,), lambda given: len(given) <= MAX_NAME),
    "priority": Expected("a whole number from 0 to 9", (int,), lambda given: 0 <= given <= 9),
    "serializer": Expected("a serializer's name", (str,)),
    "compression": Expected("a compression's name", (str,)),
    "ignore_result": YES_OR_NO,
    "headers": Expected(
        "a mapping with string keys", (Mapping,), lambda given: all(isinstance(key, str) for key in given)
    ),
    "stamps": Expected(
        "a mapping of names to values, none of them the name of a calling option",
        (Mapping,),
        lambda given: all(is_name(name) and name not in OF_CALLS for name in given),
    ),
    "soft_time_limit": SECONDS,
    "time_limit": SECONDS,
    "shadow": NAME,
    "add_to_parent": YES_OR_NO,
    "reply_to": NAME,
    "publish_timeout": SECONDS,
    "retry": YES_OR_NO,
    "retry_policy": Expected(
        "a mapping with some of max_retries (a whole number, 0 or more, or None), interval_start, interval_step, "
        "interval_max (seconds) and retry_errors (exception types)",
        (Mapping,),
        is_retry_policy,
    ),
    "unique": UNIQUE,
    "debounce": DEBOUNCE,
    "throttle": THROTTLE,
    "idempotency_key": NAME,
    "fair_key": FAIR_KEY,
    "link": Expected("a signature or a list of them", (object,)),
    "link_error": Expected("a signature or a list of them", (object,)),
}
EXCEPTIONS: Final = Expected("a tuple of exception types", (tuple, list), lambda given: all(map(_is_exception, given)))
