"""Metrics of several processes as one: counters and histograms are added up, of gauges the largest is told.

A gauge either names its worker, or tells the same of every process (what stands in a queue).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..core.values import value

#: The name of a sample, and its labels in the order in which they are shown.
Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

_ADDED: Final = frozenset({"counter", "histogram"})


@value
class Family:
    """A metric, and its samples."""

    name: str
    kind: str
    meaning: str
    samples: Mapping[Key, float]

    @property
    def is_added(self) -> bool:
        """Whether the whole is the sum of what processes tell, those that have ended among them."""
        return self.kind in _ADDED


def told(family: Any) -> tuple[str, str, str, list[tuple[str, Mapping[str, str], float]]]:
    """Return a family of prometheus-client's as plain data, for `heard` in another process."""
    samples = [(each.name, each.labels, float(each.value)) for each in family.samples]
    return family.name, family.type, family.documentation, samples


def heard(family: Sequence[Any]) -> Family:
    """Return what `told` made of a family."""
    name, kind, meaning, samples = family
    found = {(each, tuple(labels.items())): amount for each, labels, amount in samples}
    return Family(name, kind, meaning, found)


def added(families: Iterable[Family]) -> list[Family]:
    """Return each family once, as the metrics of all processes together."""
    return _joined(families, operator.add)


def latest(families: Iterable[Family]) -> list[Family]:
    """Return what one process counted in all, of what it told again and again; no gauges."""
    return _joined((each for each in families if each.is_added), max)


def _joined(families: Iterable[Family], join: Callable[[float, float], float]) -> list[Family]:
    found: dict[str, Family] = {}
    samples: dict[str, dict[Key, float]] = {}
    for family in families:
        found.setdefault(family.name, family)
        mine = samples.setdefault(family.name, {})
        join_two = join if family.is_added else max
        for key, amount in family.samples.items():
            mine[key] = join_two(mine[key], amount) if key in mine else amount
    return [Family(name, each.kind, each.meaning, samples[name]) for name, each in found.items()]
