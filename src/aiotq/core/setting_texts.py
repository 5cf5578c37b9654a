"""Settings as text, as the environment has them: lists separated by commas, numbers, `true` and `false`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..exceptions import InvalidSetting

#: Settings that are written as names with their numbers.
_NUMBERED: Final[Mapping[str, tuple[Callable[[str], float], str]]] = {
    "worker_queue_weights": (int, "queues with their weights, as hi:3,lo:1"),
    "alert_thresholds": (float, "thresholds with their numbers, as oldest:60,failing:0.01"),
}


def parsed(name: str, text: str, expected: Any) -> Any:
    """Return the value that `text` says of the setting `name`, whose type is `expected`.

    Raises:
        InvalidSetting: it says none.
    """
    if typing.get_origin(expected) is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if name == "task_routes":
        return _parsed_routes(text)
    if name in _NUMBERED:
        return _parsed_numbers(name, text)
    if name == "beat_schedule":
        raise InvalidSetting(name, text, "set in code: app.conf.beat_schedule")
    allowed = typing.get_args(expected) or (expected,)
    if type(None) in allowed and text.lower() in {"", "none", "null"}:
        return None
    try:
        if bool in allowed:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if float in allowed:
            return float(text)
        if int in allowed:
            return int(text)
    except (KeyError, ValueError) as exc:
        raise InvalidSetting(name, text, words_of(allowed)) from exc
    return text


def _parsed_routes(text: str) -> Any:
    """Return what `feed.*=feeds,proj.add=hi` says; a part without `=` is the path of a router."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    return [(name.strip(), queue.strip()) if is_pair else name for name, is_pair, queue in parts]


def _parsed_numbers(name: str, text: str) -> dict[str, float]:
    """Return what `hi:3,lo:1` says."""
    kind, expected = _NUMBERED[name]
    parts = [part.strip().rpartition(":") for part in text.split(",") if part.strip()]
    try:
        if all(key for key, _, _ in parts):
            return {key: kind(number) for key, _, number in parts}
    except ValueError:
        pass
    raise InvalidSetting(name, text, expected)


def words_of(allowed: tuple[type, ...]) -> str:
    """Return types in words."""
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "None"}
    return " or ".join(names[kind] for kind in allowed)
