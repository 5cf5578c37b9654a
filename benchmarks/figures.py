"""Words of the benchmarks: a figure with its target, a benchmark that yields figures, and statistics over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

#: What one run of a benchmark measured: values by the name of the figure.
Samples = Mapping[str, Sequence[float]]
Verdict = Literal["ok", "MISSED", ""]
Broker = Literal["sqlite", "redis", "redis-aof", "rabbitmq", "postgres", "memory", "none"]


class BenchmarkError(Exception):
    """A benchmark could not be run to its end."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number worth knowing; with a target (`at_least` or `at_most`) it can be missed."""

    name: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:,g}"
        return f"<= {self.at_most:,g}" if self.at_most is not None else ""

    def judge(self, samples: Sequence[float]) -> Verdict:
        """Compare the median of `samples` with the target."""
        median = statistics.median(samples)
        if self.at_least is not None:
            return "ok" if median >= self.at_least else "MISSED"
        if self.at_most is not None:
            return "ok" if median <= self.at_most else "MISSED"
        return ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Something to measure: `measure(size)` is run in a fresh process, once a round.

    The app in `benchmarks.tasks` has a new broker of the kind `broker` each time, and `settings` beside its defaults.
    `once`: it takes so long that the rounds don't count.
    """

    name: str
    about: str
    broker: Broker
    measure: Callable[[int], Awaitable[Samples]]
    size: int
    quick_size: int
    figures: tuple[Figure, ...]
    once: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
