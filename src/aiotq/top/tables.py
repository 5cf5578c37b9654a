"""The tables of `aiotq top` as rows of text: what stands in which column, which rows a filter leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from ..beat.manage import PeriodicTask
from ..commands.fleet import state_of
from ..commands.output import age
from ..control.fleet import FleetMember
from ..control.state import NameStats, State, TaskState
from ..core.values import value
from ..states import FAILURE, PENDING, RECEIVED, RETRY, REVOKED, STARTED, SUCCESS
from ..transport import QueueStats
from .cluster import Cluster, failures

#: Rows of calls that are shown; a filter finds the others.
MOST_ROWS: Final = 300
#: Seconds over which rates are taken.
_RATED: Final = 10
_COLORS: Final = {
    SUCCESS: "green",
    FAILURE: "red",
    RETRY: "yellow",
    REVOKED: "magenta",
    STARTED: "cyan",
    RECEIVED: "blue",
    PENDING: "dim",
}
_OF_LEVELS: Final = {"error": "red", "warning": "yellow"}


@value
class Row:
    """One row: what it is about, its cells, and the colour in which it is shown ("": none)."""

    key: str
    cells: tuple[str, ...]
    color: str = ""


@value(eq=False)
class Table:
    """A table: how its tab is called, its columns, and the rows that a cluster has for it."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Callable[[Cluster], Iterable[Row]]
    is_of_calls: bool = False

    def shown(self, cluster: Cluster, wanted: str) -> Sequence[Row]:
        """Return the rows that have `wanted` in a cell or in their key, in any case of letters."""
        wanted = wanted.casefold().strip()
        found = (
            row for row in self.rows(cluster) if not wanted or wanted in "\n".join((row.key, *row.cells)).casefold()
        )
        return list(islice(found, MOST_ROWS))


def summary(cluster: Cluster) -> str:
    """Return the line above the tables."""
    state = cluster.state
    workers = [each for each in cluster.workers if each.kind == "worker"]
    missing = sum(each.is_missing for each in workers)
    there = len(workers) - missing
    rates = ", ".join(f"{state.rate(f'task-{kind}', _RATED):.1f}/s {kind}" for kind in _KINDS)
    parts = [
        f"{there} worker{'' if there == 1 else 's'}" + (f" ({missing} missing)" if missing else ""),
        f"{sum(each.running for each in workers if not each.is_missing)} running",
        *(f"{sum(getattr(each, what) for each in cluster.queues)} {what}" for what in ("ready", "delayed", "dead")),
        rates,
    ]
    if state.dropped:
        parts.append(f"{state.dropped} events lost")
    return "  ·  ".join(parts)


_KINDS: Final = ("received", "succeeded", "failed", "retried")


def _tasks(cluster: Cluster) -> Iterable[Row]:
    """Those that run are first, then what was told of last."""
    now = cluster.now()
    yield from (_task(task, now) for task in cluster.state.running())
    yield from (_task(task, now) for _, task in cluster.state.tasks_by_time() if task.state != STARTED)


def _task(task: TaskState, now: float) -> Row:
    took = task.runtime
    if task.state == STARTED and task.started is not None:
        took = now - task.started
    cells = (
        task.name or "?",
        task.state,
        age(now - task.timestamp),
        "-" if took is None else f"{took:.2f} s",
        task.worker or "-",
        f"{task.args or ''} {task.kwargs if task.kwargs not in (None, '{}') else ''}".strip(),
        task.uuid,
    )
    return Row(task.uuid, cells, _COLORS.get(task.state, ""))


def _failures(cluster: Cluster) -> Iterable[Row]:
    now = cluster.now()
    for task in failures(cluster.state):
        cells = task.name or "?", task.state, age(now - task.timestamp), task.exception or "", task.worker or "-"
        yield Row(task.uuid, (*cells, task.uuid), _COLORS.get(task.state, ""))


def _names(cluster: Cluster) -> Iterable[Row]:
    for stats in sorted(cluster.state.names.values(), key=lambda each: (-each.received, each.name)):
        yield _name(stats, cluster.state)


def _name(stats: NameStats, state: State) -> Row:
    mean = stats.mean_runtime
    cells = (
        stats.name,
        f"{state.rate('task-received', _RATED, name=stats.name):.1f}",
        *(str(getattr(stats, kind)) for kind in ("received", "succeeded", "failed", "retried", "revoked")),
        "-" if mean is None else f"{mean:.3f} s",
        f"{stats.longest:.3f} s",
    )
    return Row(stats.name, cells, "red" if stats.failed else "")


def _workers(cluster: Cluster) -> Iterable[Row]:
    now = cluster.now()
    for each in cluster.workers:
        yield _worker(each, now)


def _worker(each: FleetMember, now: float) -> Row:
    state = state_of(each)
    about = f" by {each.blocked}" if state == "blocked" else f" for {age(each.missing_for)}" if each.is_missing else ""
    slots = " ".join(f"{kind} {taken}/{most}" for kind, (taken, most) in each.slots.items() if most)
    cells = (
        each.name,
        state + about,
        str(each.running),
        slots,
        str(each.completed),
        f"{each.load:.2f}",
        ", ".join(each.queues),
        each.host,
        str(each.pid),
        age(now - each.started),
        each.version,
    )
    return Row(each.key, cells, _COLORS_OF_WORKERS.get(state, ""))


_COLORS_OF_WORKERS: Final = {
    "up": "green",
    "live": "green",
    "waits": "dim",
    "paused": "yellow",
    "blocked": "red",
    "missing": "red",
}


def _queues(cluster: Cluster) -> Iterable[Row]:
    for each in sorted(cluster.queues, key=lambda each: each.name):
        yield _queue(each)


def _queue(each: QueueStats) -> Row:
    is_paused = each.paused_since is not None
    counts = (str(count) for count in (each.ready, each.leased, each.delayed, each.dead))
    state = "paused" if is_paused else ""
    return Row(each.name, (each.name, *counts, age(each.oldest_age), state), "yellow" if is_paused else "")


def _schedules(cluster: Cluster) -> Iterable[Row]:
    now = cluster.now()
    for each in cluster.schedules:
        yield _schedule(each, now)


def _schedule(each: PeriodicTask, now: float) -> Row:
    coming, color = "never", ""
    if each.problem is not None:
        coming, color = each.problem, "red"
    elif each.is_paused:
        coming, color = "paused", "yellow"
    elif each.next_due is not None:
        coming = f"in {age(each.next_due.timestamp() - now)}"
    last = "-" if each.last_due is None else f"{age(now - each.last_due.timestamp())} ago"
    cells = (
        *(each.name, each.workflow or each.task, each.shown, coming, last, each.last_state or "-"),
        *(str(each.runs), str(sum(each.skipped.values()))),
    )
    return Row(each.name, cells, color)


def _findings(cluster: Cluster) -> Iterable[Row]:
    for each in cluster.findings:
        yield Row(f"{each.rule} {each.about}", (each.level, each.text, each.advice), _OF_LEVELS.get(each.level, ""))


#: In the order of their tabs.
TABLES: Final = (
    Table("tasks", "Tasks", ("task", "state", "age", "took", "worker", "arguments", "id"), _tasks, True),
    Table("failures", "Failures", ("task", "state", "age", "exception", "worker", "id"), _failures, True),
    Table(
        "names",
        "Rates",
        ("task", "per s", "received", "succeeded", "failed", "retried", "revoked", "mean", "longest"),
        _names,
    ),
    Table(
        "workers",
        "Workers",
        ("worker", "state", "running", "slots", "done", "load", "queues", "host", "pid", "up", "version"),
        _workers,
    ),
    Table("queues", "Queues", ("queue", "ready", "leased", "delayed", "dead", "oldest", "state"), _queues),
    Table(
        "schedules",
        "Schedules",
        ("name", "task", "schedule", "next", "last", "state", "runs", "skipped"),
        _schedules,
    ),
    Table("findings", "Needs a look", ("level", "what", "what to do"), _findings),
)
