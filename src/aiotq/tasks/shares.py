"""Fair shares as users declare them: whose a call is, and how much of a queue that key has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from ..core.values import value
from ..exceptions import InvalidOption, InvalidSetting
from ..wire.shares import LEAST_WEIGHT, MOST_WEIGHT
from .keys import By, Callee, check_by, digest, key_value

#: The key of calls whose own can't be told before the call before them has ended: all of them have one share.
_UNTOLD: Final = "untold"
_WORDS: Final = f"a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"


@value
class Fair:
    """Calls of a queue take turns by key: `fair_key=Fair("tenant", weights={"acme": 4})`.

    `by` says whose a call is: a parameter's name, several, or a function of the arguments. `weights`: how many calls of
    a key come for one of others, by the text of the key, or as a function of it; by default the setting
    `task_fair_weights`, else 1. Calls of different tasks that have one key share its turns.
    """

    by: By
    weights: Mapping[str, float] | Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        if self.by is None:
            raise InvalidOption("Fair: by must be a parameter's name, a tuple of them, or a function, not None")
        check_by("Fair", "by", self.by)
        if self.weights is not None and not callable(self.weights):
            for key, weight in cast("Mapping[object, object]", self.weights).items():
                if not isinstance(key, str) or not is_weight(weight):
                    raise InvalidOption(f"Fair: weights must map texts of keys to {_WORDS}, not {key!r} to {weight!r}")

    def cost(self, name: str, key: object, weights: Mapping[str, float]) -> float:
        """Return what a call with `key` costs; `weights` are those of the settings.

        Raises:
            InvalidOption: the function of the weights returned none.
        """
        if callable(self.weights):
            weight: Any = self.weights(key)
        else:
            weight = (self.weights or {}).get(str(key), weights.get(str(key), 1.0))
        if not is_weight(weight):
            raise InvalidOption(f"{name}: fair_key: the weight of {key!r} must be {_WORDS}, not {weight!r}")
        return float(1.0 / weight)


FairKey = str | tuple[str, ...] | Callable[..., object] | Fair


def is_weight(given: object) -> bool:
    """Whether a key can have so much."""
    return isinstance(given, (int, float)) and not isinstance(given, bool) and LEAST_WEIGHT <= given <= MOST_WEIGHT


def is_fair_key(given: object) -> bool:
    """Whether `given` says whose a call is."""
    if isinstance(given, Fair):
        return True
    try:
        check_by("", "", given)
    except InvalidOption:
        return False
    return given is not None


def fair_of(given: FairKey) -> Fair:
    """Return what a task or a call says of its key as one value."""
    return given if isinstance(given, Fair) else Fair(given)


def share_header(
    task: Callee | str,
    given: FairKey,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    weights: Mapping[str, float],
    *,
    is_step: bool,
) -> list[Any]:
    """Return the header of a call that says whose it is.

    Raises:
        InvalidOption: its key can't be made (unless it is a step, which may not have all its arguments yet), or its
            weight is none.
    """
    fair, name = fair_of(given), task if isinstance(task, str) else task.name
    try:
        key = key_value(task, fair.by, args, kwargs)
    except Exception:  # the user's function may raise anything: it does not have what the step before gives
        if not is_step:
            raise
        return [_UNTOLD, 1.0]
    return [digest(name, "fair_key", key), fair.cost(name, key, weights)]


def check_fair_weights(given: object) -> Mapping[str, float]:
    """Return the setting `task_fair_weights`.

    Raises:
        InvalidSetting: it is no mapping of texts of keys to weights.
    """
    weights = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else {None: None}
    if not all(isinstance(key, str) and is_weight(weight) for key, weight in weights.items()):
        raise InvalidSetting("task_fair_weights", weights, f"a mapping of keys to weights, each {_WORDS}")
    return cast("Mapping[str, float]", given)
