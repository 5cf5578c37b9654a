"""What a process sent: counted as it is sent, and read when somebody asks (see `web.metrics`)."""

from __future__ import annotations

from typing import Final

from ..core.histogram import Histogram

#: Upper bounds of seconds.
_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)


class SendingCounts:
    """How many messages the broker accepted, how long it took for those sent together, and which errors callers got."""

    __slots__ = ("errors", "seconds", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.seconds = Histogram(_BOUNDS)
        self.errors: dict[str, int] = {}

    def accepted(self, count: int, seconds: float) -> None:
        """Count messages that were accepted together."""
        self.sent += count
        self.seconds.observe(seconds)

    def failed(self, error: BaseException) -> None:
        """Count a call that was not accepted."""
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1
