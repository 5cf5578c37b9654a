"""Prometheus' metrics of one process: what its workers did, counted as they are told, and read when somebody asks.

Counting is a dictionary and some additions for each run: prometheus-client's own counters, with a lock each, would cost
several times that. A scrape turns the counts into its families, so that the library writes the format.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import states
from ..beat.schedule_counts import ScheduleCounts
from ..calling.sending_counts import SendingCounts
from ..canvas.outcome import REJECTED, Outcome, Success
from ..commit import Finish
from ..core.histogram import Histogram
from ..states import SUCCESS
from ..transport import Delivery, QueueStats
from ..worker.observers import Observer
from ..worker.recent import Timing
from ..worker.run import Run
from ..worker.worker import Worker

#: Upper bounds of seconds.
_RUN_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_WAIT_BOUNDS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
_COMMIT_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_GROUP_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
#: Pairs of a task and a queue that are told apart; anybody can send calls of tasks with any name.
_MOST_SERIES: Final = 1_000
OTHER: Final = ("(other)", "(other)")

#: The state in which a run ended -> the metric that counts it.
_COUNTED: Final[Mapping[str, str]] = {
    states.SUCCESS: "succeeded",
    states.FAILURE: "failed",
    states.RETRY: "retried",
    states.REVOKED: "revoked",
    states.IGNORED: "ignored",
    REJECTED: "dead",
}
_MEANING: Final[Mapping[str, str]] = {
    "received": "Messages that workers took",
    "started": "Runs that began",
    "succeeded": "Runs that returned a value",
    "failed": "Runs that failed, and are not tried again",
    "retried": "Runs that are tried again",
    "revoked": "Calls that were revoked, or expired",
    "ignored": "Runs that asked to be ignored",
    "dead": "Messages that became dead letters",
    "handed_back": "Messages that were taken, not started, and returned to their queues",
}


class _Series:
    """What happened to the calls of one task from one queue."""

    __slots__ = (*_MEANING, "begun", "run", "wait")

    def __init__(self) -> None:
        self.begun = 0  #: what was last told as started; a counter never falls
        self.received = self.started = self.handed_back = 0
        self.succeeded = self.failed = self.retried = self.revoked = self.ignored = self.dead = 0
        self.run = Histogram(_RUN_BOUNDS)
        self.wait = Histogram(_WAIT_BOUNDS)


class Metrics(Observer, Collector):
    """Counts what the workers of a process do. Told on their loops; read by whoever scrapes, in any thread."""

    hears_runs = False

    def __init__(self, workers: Sequence[Worker] = ()) -> None:
        self._workers = workers  #: those that run now: what runs in them has started, and is counted when it ends
        self._series: dict[tuple[str, str], _Series] = {}
        self._commits = Histogram(_COMMIT_BOUNDS)
        self._groups = Histogram(_GROUP_BOUNDS)
        self._leases_lost = 0

    def __repr__(self) -> str:
        return "<metrics>"

    def received(self, deliveries: Sequence[Delivery]) -> None:
        known = self._series
        for each in deliveries:
            series = known.get((each.message.task, each.queue)) or self._of(each)
            series.received += 1

    def handed_back(self, delivery: Delivery, delay: float) -> None:
        self._of(delivery).handed_back += 1

    def counted(self, run: Run, outcome: Outcome | None, finish: Finish | None, timing: Timing | None) -> None:
        delivery = run.delivery
        series = self._series.get((delivery.message.task, delivery.queue)) or self._of(delivery)
        if type(outcome) is not Success:
            _count_other(series, None if outcome is None else outcome.state)
            if timing is None and run.request is not None:
                timing = run.seconds, None, 1
        elif finish is None or finish.record is None or finish.record.state == SUCCESS:
            series.succeeded += 1
        else:
            series.failed += 1  # its value can't be kept
        if run.request is not None:  # it was called
            series.started += 1
        if timing is not None:
            ran, waited, runs = timing
            series.run.observe(ran, runs)
            if waited is not None:
                series.wait.observe(waited if waited > 0.0 else 0.0, runs)

    def lost(self, deliveries: Collection[Delivery]) -> None:
        self._leases_lost += len(deliveries)

    def committed(self, count: int, seconds: float) -> None:
        self._groups.observe(count)
        self._commits.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted, as prometheus-client writes it."""
        running = Counter(
            (run.delivery.message.task, run.delivery.queue)
            for worker in tuple(self._workers)
            for run in worker.runs
            if run.request is not None
        )
        series = sorted(self._series.copy().items())
        for key, each in series:
            each.begun = max(each.begun, each.started + running[key])
        labels = ("task", "queue")
        for name, meaning in _MEANING.items():
            family = CounterMetricFamily(f"aiotq_tasks_{name}", meaning, labels=labels)
            for key, each in series:
                family.add_metric(key, each.begun if name == "started" else getattr(each, name))
            yield family
        runs = HistogramMetricFamily("aiotq_task_run_seconds", "How long runs took", labels=labels)
        waits = HistogramMetricFamily(
            "aiotq_task_wait_seconds", "From the time at which a call was sent or due to its start", labels=labels
        )
        for key, each in series:
            runs.add_metric(key, each.run.buckets(), each.run.sum)
            waits.add_metric(key, each.wait.buckets(), each.wait.sum)
        commits = HistogramMetricFamily("aiotq_commit_seconds", "How long writing a group of ends took")
        commits.add_metric((), self._commits.buckets(), self._commits.sum)
        groups = HistogramMetricFamily("aiotq_commit_group_size", "How many ends were written together")
        groups.add_metric((), self._groups.buckets(), self._groups.sum)
        lost = CounterMetricFamily("aiotq_leases_lost", "Messages whose lease ended although this worker lives")
        lost.add_metric((), self._leases_lost)
        yield from (runs, waits, commits, groups, lost)

    def _of(self, delivery: Delivery) -> _Series:
        key = delivery.message.task, delivery.queue
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= _MOST_SERIES:
                key = OTHER
            found = self._series.setdefault(key, _Series())
        return found


def _count_other(series: _Series, state: str | None) -> None:
    """Count what did not succeed; nothing of what goes on elsewhere."""
    if state is not None and (counted := _COUNTED.get(state)) is not None:
        setattr(series, counted, getattr(series, counted) + 1)


def queue_families(queues: Sequence[QueueStats]) -> Iterator[Metric]:
    """Yield what stands in queues: the same for every process that tells it, so that one takes `max by (queue)`."""
    counts = GaugeMetricFamily(
        "aiotq_queue_messages",
        "Messages in a queue: ready, leased to workers, delayed, dead",
        labels=("queue", "state"),
    )
    ages = GaugeMetricFamily(
        "aiotq_queue_oldest_seconds", "The age of the oldest message that is ready", labels=("queue",)
    )
    for each in queues:
        for state in ("ready", "leased", "delayed", "dead"):
            counts.add_metric((each.name, state), getattr(each, state))
        if each.oldest_age is not None:
            ages.add_metric((each.name,), each.oldest_age)
    paused = [((each.name,), float(each.paused_since is not None)) for each in queues]
    yield from (counts, ages, gauge("aiotq_queue_paused", "1: paused for all workers, 0: not", ("queue",), paused))


def sending_families(counts: SendingCounts) -> Iterator[Metric]:
    """Yield what this process sent: messages that the broker accepted, how long that took, and what failed."""
    sent = CounterMetricFamily("aiotq_messages_sent", "Messages that the broker accepted from this process")
    sent.add_metric((), counts.sent)
    took = HistogramMetricFamily("aiotq_publish_seconds", "How long the broker took to accept messages sent together")
    took.add_metric((), counts.seconds.buckets(), counts.seconds.sum)
    failed = CounterMetricFamily(
        "aiotq_publish_errors", "Calls that were not accepted, by the error", labels=("error",)
    )
    for name, count in sorted(counts.errors.copy().items()):
        failed.add_metric((name,), count)
    yield from (sent, took, failed)


def schedule_families(schedulers: Sequence[ScheduleCounts]) -> Iterator[Metric]:
    """Yield what the schedulers of this process sent, how late, and what they left out."""
    sent = CounterMetricFamily("aiotq_schedule_sent", "Occurrences of periodic tasks that were sent")
    late = HistogramMetricFamily(
        "aiotq_schedule_lateness_seconds", "How long after its due time an occurrence was sent"
    )
    skipped = CounterMetricFamily("aiotq_schedule_skipped", "Occurrences that were not sent", labels=("reason",))
    total = ScheduleCounts()
    for each in schedulers:
        total.add(each)
    sent.add_metric((), total.sent)
    late.add_metric((), total.lateness.buckets(), total.lateness.sum)
    for reason, count in sorted(total.skipped.items()):
        skipped.add_metric((reason,), count)
    yield from (sent, late, skipped)


def gauge(
    name: str, meaning: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    """Return a gauge with its samples: the values of the labels, and the amount."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, amount in samples:
        family.add_metric(values, amount)
    return family


def about_workers(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield the gauges of workers, of which each has told its facts."""
    slots = [((each["name"], kind), capacity) for each in workers for kind, (_, capacity) in each["slots"].items()]
    yield gauge("aiotq_worker_slots", "Tasks that may run at once", ("worker", "kind"), slots)
    for fact, meaning in (
        ("running", "Tasks that run now"),
        ("loop_lag_seconds", "How late the event loop is now"),
        ("broker_silence_seconds", "Since the broker answered last"),
        ("uncommitted", "Ends that are not written yet"),
    ):
        yield gauge(f"aiotq_worker_{fact}", meaning, ("worker",), [((each["name"],), each[fact]) for each in workers])
