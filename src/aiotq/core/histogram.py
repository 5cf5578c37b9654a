"""Counting how often something was in which interval, with plain additions."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """How often something was in which interval; `sum` of all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, amount)] += times
        self.sum += amount * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return the upper bounds, each with how many were not over it."""
        total, found = 0, list[tuple[str, float]]()
        for bound, count in zip((*self.bounds, float("inf")), tuple(self.counts), strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), total))
        return found

    def add(self, other: Histogram) -> None:
        """Add what another one with the same bounds counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
