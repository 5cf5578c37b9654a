"""Durations as people write them."""

from __future__ import annotations

import re
from typing import Final

#: Seconds of each unit of a duration.
_UNITS: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_NUMBER: Final = r"\d+(?:\.\d+)?"


def parse_duration(text: str) -> float:
    """Return the seconds in `7d`, `12h`, `1h30m`, `90s` or `90`.

    Raises:
        ValueError: it is none of these.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not re.fullmatch(f"(?:{_NUMBER}[{''.join(_UNITS)}])+", text):
        raise ValueError(f"no duration: {text!r}")
    return sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(f"{_NUMBER}[a-z]", text))
