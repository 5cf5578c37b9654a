"""What is shown of an app: plain values, the same for the terminal, the dashboard and the JSON API.

Times are seconds since the epoch, durations are seconds. Arguments are text as it may be shown: clipped, those masked
that `masked_arguments` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import Any, Final, Literal, cast

from ..beat.manage import PeriodicTask
from ..core.values import value
from ..graph.graph import Graph
from ..results.index import Finished
from ..transport import QueueStats
from .fleet import FleetMember
from .picture import Finding
from .recent import Figures, Recent, TaskFigures

#: The words for calls that have not ended, beside the states: delayed ones wait in the broker for their due time.
DELAYED: Final = "DELAYED"
DEAD: Final = "DEAD"


@value
class QueueView:
    """A queue, and how it keeps up.

    `coming` is how many calls came in a minute, which is known once it was looked at twice; `going` is how many ended.
    """

    stats: QueueStats
    state: Literal["idle", "keeps up", "behind", "paused", "no worker"]
    workers: tuple[str, ...]
    going: float
    coming: float | None
    lately: Figures  #: what ended of it in the last ten minutes

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **_plain(self.stats),
            "state": self.state,
            "workers": list(self.workers),
            "going": round(self.going, 1),
            "coming": None if self.coming is None else round(self.coming, 1),
            "lately": self.lately.plain(),
        }


@value
class LiveCall:
    """A call that runs (STARTED), waits in a worker for a slot (RECEIVED), or for its due time (`DELAYED`).

    `since` is when it started, or is due. `usual` is what 95 of 100 runs of its task took at most in the last hour.
    """

    id: str
    name: str
    state: str
    queue: str
    worker: str = ""
    since: float | None = None
    args: str = ""
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    kind: str = ""  #: `loop`, `thread` or `process`, of one that runs
    seconds: float | None = None  #: how long it runs
    usual: float | None = None

    @property
    def is_slow(self) -> bool:
        """Whether it runs for longer than is usual."""
        return self.seconds is not None and self.usual is not None and self.seconds > self.usual

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**_plain(self), "is_slow": self.is_slow}


@value
class LiveCalls:
    """What workers said when they were asked: which calls run, those that began first in front, and which wait in them.

    `delayed` are calls that wait in the broker for their due time, as it said then. `notes` say who did not answer.
    `members` are those that did, where no registry knows them. Not `is_known`: nobody was asked yet.
    """

    running: tuple[LiveCall, ...] = ()
    reserved: tuple[LiveCall, ...] = ()
    delayed: tuple[LiveCall, ...] = ()
    notes: tuple[str, ...] = ()
    members: tuple[FleetMember, ...] | None = None
    is_known: bool = False

    @property
    def all(self) -> Sequence[LiveCall]:
        """All of them."""
        return (*self.running, *self.reserved, *self.delayed)


@value
class Stacks:
    """Where everything in workers stood at the moment `at`, by their names; `silent` did not answer."""

    at: float
    of: tuple[tuple[str, str], ...]
    silent: tuple[str, ...] = ()
    problem: str = ""  #: why nobody could be asked


@value
class CallsPage:
    """Calls: what is live, and a page of what ended.

    `problem` says why finished ones can't be searched, where they can't; `notes` why something live is missing.
    """

    live: tuple[LiveCall, ...]
    finished: tuple[Finished, ...]
    cursor: str | None
    counts: Mapping[str, int]  #: by state, of what the index has and of what is live
    looked_back_to: float | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "live": [each.plain() for each in self.live],
            "finished": [_plain(each) for each in self.finished],
            "cursor": self.cursor,
            "counts": dict(self.counts),
            "looked_back_to": self.looked_back_to,
            "problem": self.problem,
            "notes": list(self.notes),
        }


@value
class Argument:
    """One argument of a call."""

    name: str
    kind: str  #: the type of its value
    text: str
    is_masked: bool = False


@value
class CallView:
    """All that is known of one call.

    `state` is that of its record, or STARTED, RECEIVED, `DELAYED` or `DEAD` where that is known better; PENDING: it
    waits, or nothing is known. `arguments` are None where they are not kept. `dead` is the key of its dead letter.
    """

    id: str
    state: str
    name: str | None = None
    result: str | None = None  #: the value, as it may be shown
    error: str | None = None
    traceback: str | None = None
    ended: float | None = None
    worker: str | None = None
    queue: str | None = None
    retries: int | None = None
    waited: float | None = None
    ran: float | None = None
    arguments: tuple[Argument, ...] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    children: tuple[str, ...] = ()
    periodic: str | None = None
    expires: float | None = None  #: when its record goes
    dead: str | None = None
    dead_reason: str | None = None
    live: LiveCall | None = None
    key: str | None = None  #: of its entry in the index
    info: str | None = None  #: what `update_state` said
    attempts: tuple[Finished, ...] = ()  #: those before the last one, the first in front, as far as the index has them
    recent: TaskFigures | None = field(default=None, repr=False)  #: of its task, in the last hour
    graph: Graph | None = field(default=None, repr=False)

    @property
    def is_known(self) -> bool:
        """Whether anything is known of it."""
        return self.name is not None or self.state != "PENDING"

    def plain(self) -> dict[str, Any]:
        """Return it for JSON, its graph as nodes and edges."""
        own = {name: getattr(self, name) for name in _OF_A_CALL}
        arguments = None if self.arguments is None else [_plain(each) for each in self.arguments]
        graph = None
        if self.graph is not None:
            nodes, edges = self.graph.nodes, self.graph.edges
            graph = {"nodes": [_plain(each) for each in nodes], "edges": [_plain(each) for each in edges]}
        live = None if self.live is None else self.live.plain()
        recent = None if self.recent is None else self.recent.hour.plain()
        attempts = [_plain(each) for each in self.attempts]
        more = {"arguments": arguments, "attempts": attempts, "live": live, "recent": recent, "graph": graph}
        return {**own, **more}


_OF_A_CALL: Final = (
    *("id", "state", "name", "result", "error", "traceback", "ended", "worker", "queue", "retries", "waited", "ran"),
    *("root_id", "parent_id", "children", "periodic", "expires", "dead", "dead_reason", "key", "info"),
)


@value
class WorkflowView:
    """A workflow: how many of its calls ended, as far as its stored plan tells.

    `id` is that of its first call. `is_whole`: False if its plan was too large to be kept as a whole.
    """

    id: str
    name: str  #: of the first task
    tasks: str  #: the names of all of its tasks
    sent: float
    state: str  #: STARTED, SUCCESS, FAILURE, REVOKED; PENDING: nothing of it ended yet
    total: int = 0
    ended: int = 0
    failed: int = 0
    retrying: int = 0
    is_whole: bool = True
    key: str = ""


@value
class WorkflowPage:
    """Workflows, the newest first."""

    workflows: tuple[WorkflowView, ...]
    cursor: str | None
    problem: str | None = None  #: why there is no list of them, where there is none

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"workflows": [_plain(each) for each in self.workflows], "cursor": self.cursor, "problem": self.problem}


@value
class DeadView:
    """A dead letter."""

    key: str
    queue: str
    reason: str
    detail: str
    died_at: float
    deaths: int
    id: str | None = None
    name: str | None = None  #: None: its message could not be read
    retries: int | None = None
    origin: str | None = None
    args: str | None = None  #: None: they can't be read
    size: int = 0  #: bytes of its body


@value
class Overview:
    """How things stand with an app, at one moment.

    `figures` are of the minutes that were asked for. `notes` say what could not be read, and why.
    """

    now: float
    recent: Recent
    figures: Figures
    findings: tuple[Finding, ...]
    queues: tuple[QueueView, ...]
    workers: tuple[FleetMember, ...]
    failing: tuple[TaskFigures, ...]  #: the tasks that failed most in the last hour
    slowest: tuple[TaskFigures, ...]  #: those whose runs took longest
    schedules: tuple[PeriodicTask, ...] = ()
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "now": self.now,
            "minutes": [{"at": each.at, **each.figures.plain()} for each in self.recent.minutes],
            "figures": self.figures.plain(),
            "findings": [_plain(each) for each in self.findings],
            "queues": [each.plain() for each in self.queues],
            "workers": [plain_member(each) for each in self.workers],
            "failing": [plain_task(each) for each in self.failing],
            "slowest": [plain_task(each) for each in self.slowest],
            "notes": list(self.notes),
        }


def plain_member(member: FleetMember) -> dict[str, Any]:
    """Return a worker or scheduler for JSON, without what it counted."""
    return {name: given for name, given in _plain(member).items() if name != "recent"}


def plain_task(task: TaskFigures) -> dict[str, Any]:
    """Return what ended of a task for JSON."""
    return {
        "task": task.task,
        "queue": task.queue,
        "lately": task.lately.plain(),
        "before": task.before.plain(),
        "hour": task.hour.plain(),
    }


def plain_all(values: Sequence[object]) -> list[dict[str, Any]]:
    """Return values for JSON."""
    return [_plain(each) for each in values]


def _plain(given: object) -> dict[str, Any]:
    return asdict(cast("Any", given))
