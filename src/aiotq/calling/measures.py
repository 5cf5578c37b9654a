"""Metrics by OpenTelemetry: what this process sends and runs, how long that takes, and its workers.

Source: OpenTelemetry, "Semantic conventions for messaging client metrics".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol
from weakref import WeakSet

from opentelemetry import metrics

from ..core.version import VERSION

#: Upper bounds of seconds that the conventions recommend.
_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: Of a worker: the fact, the metric, its unit, and what it is.
_GAUGES: Final = (
    ("running", "aiotq.worker.running", "{task}", "Tasks that run now"),
    ("uncommitted", "aiotq.worker.uncommitted", "{task}", "Ends that are not written yet"),
    ("loop_lag_seconds", "aiotq.worker.loop.lag", "s", "How late the event loop is now"),
    ("broker_silence_seconds", "aiotq.worker.broker.silence", "s", "Since the broker answered last"),
)

#: Those of this process.
_all: Final[WeakSet[Measures]] = WeakSet()

Attributes = Mapping[str, str | int]


class Member(Protocol):
    """A worker that runs here."""

    def facts(self) -> Mapping[str, Any]:
        """Return its name, and what is measured of it."""
        ...


class Measures:
    """The instruments of one app; without an SDK they do nothing. `workers`: those that run now."""

    def __init__(self, workers: Sequence[Member]) -> None:
        meter = metrics.get_meter("aiotq", VERSION)
        sent, consumed = "messaging.client.sent.messages", "messaging.client.consumed.messages"
        self._sent = meter.create_counter(sent, "{message}", "Calls that the broker was asked to accept")
        self._consumed = meter.create_counter(consumed, "{message}", "Calls that began to run")
        self._send = _histogram(meter, "messaging.client.operation.duration", "How long sending calls took")
        self._process = _histogram(meter, "messaging.process.duration", "How long runs took")
        self.workers = workers
        _all.add(self)
        _watch_workers()

    def sent(self, count: int, seconds: float, attributes: Attributes) -> None:
        """Count what was sent together."""
        self._sent.add(count, attributes)
        self._send.record(seconds, attributes)

    def ran(self, seconds: float, attributes: Attributes) -> None:
        """Count a run."""
        self._consumed.add(1, attributes)
        self._process.record(seconds, attributes)


def _histogram(meter: metrics.Meter, name: str, text: str) -> metrics.Histogram:
    return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=_BOUNDS)


@cache
def _watch_workers() -> None:
    """Make the gauges, once for all apps of the process: an SDK asks those who made an instrument first."""
    meter = metrics.get_meter("aiotq", VERSION)
    for fact, name, unit, text in _GAUGES:
        meter.create_observable_gauge(name, [_told(fact)], unit, text)


def _told(fact: str) -> Callable[[Any], Iterable[metrics.Observation]]:
    def observe(_options: Any) -> Iterable[metrics.Observation]:
        for facts in [worker.facts() for each in tuple(_all) for worker in tuple(each.workers)]:
            yield metrics.Observation(facts[fact], {"aiotq.worker.name": facts["name"]})

    return observe
