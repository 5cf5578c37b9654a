"""Arithmetic of time: pure functions, which know no clock."""

from __future__ import annotations

import random
import re
from typing import Final

#: Seconds of each unit of a rate.
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def backoff(factor: float, retries: int, *, maximum: float, jitter: bool, rng: random.Random | None = None) -> float:
    """Return the seconds to wait before retry number `retries` + 1: `factor * 2**retries`, at most `maximum`.

    With `jitter` it is anything between 0 and that, so that those who failed together don't come back together.
    Source: Celery, "Automatic retry for known exceptions".
    """
    seconds = min(maximum, factor * 2.0 ** min(retries, 1000))
    return (rng or random).uniform(0, seconds) if jitter else seconds


def seconds_apart(rate: str | float) -> float | None:
    """Return how many seconds apart starts are at `rate`: `"100/m"`, `"5/h"`, `"2/s"`, or a number a second; 0 is no
    limit, and None is returned.

    Raises:
        ValueError: it is no rate.
    """
    number: float
    if isinstance(rate, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smh]))?", rate.strip())
        if found is None:
            raise ValueError(f"no rate: {rate!r}")
        number = float(found[1]) / _UNITS[found[2] or "s"]
    else:
        number = float(rate)
    if not 0 <= number < 1e6:
        raise ValueError(f"no rate: {rate!r}")
    return 1 / number if number else None
