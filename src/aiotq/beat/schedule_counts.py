"""What a scheduler sent, and how late: counted as it is sent, and read when somebody asks (see `web.metrics`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..core.histogram import Histogram

#: Upper bounds of seconds.
_BOUNDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0)


class ScheduleCounts:
    """How many occurrences were sent, and skipped for which reason, and how late those were that were sent."""

    __slots__ = ("lateness", "sent", "skipped")

    def __init__(self) -> None:
        self.sent = 0
        self.lateness = Histogram(_BOUNDS)
        self.skipped: dict[str, int] = {}

    def was_sent(self, late: float) -> None:
        """Count an occurrence that was sent so many seconds after its due time."""
        self.sent += 1
        self.lateness.observe(max(late, 0.0))

    def were_skipped(self, reasons: Iterable[str]) -> None:
        """Count occurrences that were not sent."""
        for reason in reasons:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def add(self, other: ScheduleCounts) -> None:
        """Add what another one counted."""
        self.sent += other.sent
        self.lateness.add(other.lateness)
        for reason, count in other.skipped.copy().items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
