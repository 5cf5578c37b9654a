"""Cluster state: what events say of workers and calls, folded together, and bounded (`app.events.State`).

The terminal view, the dashboard, cameras and users share it. It does no I/O, and what it is fed may be anything: fields
that are no events' are left out.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from .. import states

T = TypeVar("T")

#: Seconds between the heartbeats of a worker that says nothing of it.
_FREQ: Final = 2.0
#: A worker is alive for so many times that, beyond its last event.
_WINDOW: Final = 2.0
#: Seconds back that rates are known for.
RATES_KEPT: Final = 120
#: Names of tasks that are counted one by one, at most.
_MOST_NAMES: Final = 2_000
REJECTED: Final = "REJECTED"

_STATES: Final[Mapping[str, str]] = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "succeeded": states.SUCCESS,
    "failed": states.FAILURE,
    "rejected": REJECTED,
    "revoked": states.REVOKED,
    "retried": states.RETRY,
}
#: What logically comes later has a higher number; where the times of two events don't say it, this does.
_ORDER: Final[Mapping[str, int]] = {
    states.PENDING: 0,
    states.RETRY: 1,
    REJECTED: 2,
    states.RECEIVED: 3,
    states.STARTED: 4,
    states.REVOKED: 6,
    states.FAILURE: 7,
    states.SUCCESS: 8,
}
_CUSTOM: Final = 5


class TaskState:
    """One call, as events tell of it. Times are wall times in seconds; None is not known."""

    __slots__ = (
        "args",
        "client",
        "clock",
        "eta",
        "exception",
        "exchange",
        "expires",
        "failed",
        "kwargs",
        "name",
        "parent_id",
        "queue",
        "received",
        "rejected",
        "result",
        "retried",
        "retries",
        "revoked",
        "root_id",
        "routing_key",
        "runtime",
        "sent",
        "started",
        "state",
        "succeeded",
        "timestamp",
        "traceback",
        "uuid",
        "worker",
    )

    name: str | None
    args: str | None
    kwargs: str | None
    worker: str | None  #: the name of the worker that told of it last
    client: str | None  #: the name of the process that sent it
    result: str | None
    exception: str | None
    traceback: str | None
    runtime: float | None  #: seconds
    sent: float | None
    received: float | None
    started: float | None
    succeeded: float | None
    failed: float | None
    rejected: float | None
    revoked: float | None
    retried: float | None
    retries: int | None
    eta: str | None
    expires: str | None
    root_id: str | None
    parent_id: str | None
    queue: str | None
    exchange: str | None
    routing_key: str | None

    def __init__(self, uuid: str) -> None:
        for name in TaskState.__slots__:
            setattr(self, name, None)
        self.uuid = uuid
        self.state: str = states.PENDING
        self.timestamp: float = 0.0  #: of the last event
        self.clock: int = 0

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state}>"

    @property
    def id(self) -> str:
        return self.uuid

    @property
    def is_ready(self) -> bool:
        """Whether it has ended."""
        return self.state in _ENDED

    ready = is_ready

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known."""
        return {name: getattr(self, name) for name in TaskState.__slots__}

    def info(self) -> dict[str, Any]:
        """Return what is known, and is to be shown."""
        return {name: known for name in _INFO if (known := getattr(self, name)) is not None}

    def take(self, subject: str, event: Mapping[str, Any]) -> None:
        """Be what `event` says."""
        timestamp = event["timestamp"]
        state = _STATES.get(subject)
        if state is None:
            state = sys.intern(subject.upper())
        else:
            setattr(self, subject, timestamp)
        for field in _FIELDS:
            if (given := event.get(field)) is not None:
                setattr(self, field, _shared(given))
        if isinstance(name := event.get("name"), str):
            self.name = sys.intern(name)
        if subject == "sent":
            self.client = sys.intern(event["hostname"])
        else:
            self.worker = sys.intern(event["hostname"])
        if self._is_news(state, timestamp):
            self.state, self.timestamp = state, timestamp
            self.clock = event.get("clock") or 0

    def _is_news(self, state: str, timestamp: float) -> bool:
        """Whether what happened at `timestamp` came after what is known. Clocks of clients may be wrong."""
        if _ORDER.get(state, _CUSTOM) >= _ORDER.get(self.state, _CUSTOM):
            return True
        return state != states.PENDING and timestamp > self.timestamp


class WorkerState:
    """One worker, as events tell of it."""

    __slots__ = (
        "_ends",
        "active",
        "clock",
        "freq",
        "heartbeats",
        "hostname",
        "is_offline",
        "loadavg",
        "pid",
        "processed",
        "sw_ident",
        "sw_sys",
        "sw_ver",
    )

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        self.pid: int | None = None
        self.freq: float = _FREQ  #: seconds between heartbeats
        self.heartbeats: deque[float] = deque(maxlen=4)  #: when it was heard of, by this process's clock
        self.clock: int = 0
        self.active: int | None = None  #: calls that run
        self.processed: int | None = None  #: calls that it has finished
        self.loadavg: Any = None  #: of its machine, over 1, 5 and 15 minutes
        self.sw_ident: str | None = None
        self.sw_ver: str | None = None
        self.sw_sys: str | None = None
        self.is_offline = False  #: it said good-bye

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string})>"

    @property
    def id(self) -> str:
        return f"{self.hostname}.{self.pid}"

    @property
    def heartbeat_expires(self) -> float:
        """The time after which it counts as gone if nothing is heard of it."""
        return (self.heartbeats[-1] if self.heartbeats else 0.0) + self.freq * _WINDOW

    def is_alive(self, now: float) -> bool:
        """Whether it was heard of in time."""
        return not self.is_offline and bool(self.heartbeats) and now < self.heartbeat_expires

    @property
    def alive(self) -> bool:
        """The same, now."""
        return self.is_alive(time.time())

    @property
    def status_string(self) -> str:
        return "ONLINE" if self.alive else "OFFLINE"

    def heard(self, event: Mapping[str, Any], now: float) -> None:
        """Be alive: an event of one of its calls came at `now`."""
        if self.pid is None and isinstance(pid := event.get("pid"), int):
            self.pid = pid
        self.is_offline = False
        self.heartbeats.append(now)

    def take(self, subject: str, event: Mapping[str, Any], now: float) -> None:
        """Be what `event` says, which came at `now`."""
        for name in ("pid", "active", "processed", "clock"):
            if isinstance(given := event.get(name), int):
                setattr(self, name, given)
        for name in ("sw_ident", "sw_ver", "sw_sys"):
            if isinstance(given := event.get(name), str):
                setattr(self, name, _shared(given))
        if isinstance(freq := event.get("freq"), (int, float)) and freq > 0:
            self.freq = float(freq)
        if "loadavg" in event:
            self.loadavg = event["loadavg"]
        self.is_offline = subject == "offline"
        if self.is_offline:
            self.heartbeats.clear()
            self.active = 0
        else:
            self.heartbeats.append(now)


@dataclass(slots=True)
class NameStats:
    """Counts of the calls of one task, since this state began."""

    name: str
    sent: int = 0
    received: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    revoked: int = 0
    rejected: int = 0
    runtime: float = 0.0  #: seconds, of all that succeeded together
    longest: float = 0.0  #: seconds, of the one that took longest

    @property
    def mean_runtime(self) -> float | None:
        """Seconds that a call took which succeeded; None: none did."""
        return self.runtime / self.succeeded if self.succeeded else None


class State:
    """What events say of a cluster, folded together: feed it with `state.event(event)`.

    The `max_tasks` calls are kept that were told of last, and as many workers as `max_workers`.
    `callback(state, event)` is called with each event. `now` says what time it is here.
    """

    def __init__(
        self,
        callback: Callable[[State, Mapping[str, Any]], object] | None = None,
        *,
        max_tasks: int = 10_000,
        max_workers: int = 5_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.max_tasks = max_tasks
        self.max_workers = max_workers
        self.workers: OrderedDict[str, WorkerState] = OrderedDict()
        self.tasks: OrderedDict[str, TaskState] = OrderedDict()  #: what was told of last stands last
        self.names: dict[str, NameStats] = {}  #: by the names of tasks
        self.counts: Counter[str] = Counter()  #: of events, by type
        self.event_count = 0
        self.task_count = 0  #: events of calls
        self.dropped = 0  #: events that were left out somewhere, as far as is known
        self._callback = callback
        self._now = now
        self._seconds: deque[tuple[int, Counter[tuple[str, str | None]]]] = deque(maxlen=RATES_KEPT + 1)

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one event, as `app.events.capture()` or Celery brings it."""
        kind, timestamp, hostname = event.get("type"), event.get("timestamp"), event.get("hostname")
        if not (isinstance(kind, str) and isinstance(timestamp, (int, float)) and isinstance(hostname, str)):
            return
        self.event_count += 1
        kind = sys.intern(kind)
        self._count(kind)
        group, _, subject = kind.partition("-")
        if group == "task" and isinstance(event.get("uuid"), str):
            self.task_count += 1
            self._take_task(subject, event)
        elif group == "worker":
            self._worker(hostname).take(subject, event, self._now())
        elif group == "events" and isinstance(count := event.get("dropped"), int):
            self.dropped += count
        if self._callback is not None:
            self._callback(self, event)

    def _take_task(self, subject: str, event: Mapping[str, Any]) -> None:
        task = self.get_or_create_task(event["uuid"])
        task.take(subject, event)
        if subject != "sent":
            self._worker(event["hostname"]).heard(event, self._now())
        if task.name is not None:
            self._count_name(task.name, subject, event)

    def get_or_create_task(self, uuid: str) -> TaskState:
        """Return a call, which is the last one now."""
        task = self.tasks.get(uuid)
        if task is None:
            task = self.tasks[uuid] = TaskState(uuid)
            if len(self.tasks) > self.max_tasks:
                self.tasks.popitem(last=False)
        else:
            self.tasks.move_to_end(uuid)
        return task

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, TaskState]]:
        """Yield calls with their ids: what was told of last is first, or with `reverse=False` last."""
        items = reversed(self.tasks.items()) if reverse else iter(self.tasks.items())
        return islice(items, limit)

    tasks_by_timestamp = tasks_by_time

    def tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, TaskState]]:
        """Yield the calls of one task, as `tasks_by_time`."""
        found = ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name)
        return islice(found, limit)

    def tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, TaskState]]:
        """Yield the calls that one worker told of last, as `tasks_by_time`."""
        found = ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.worker == hostname)
        return islice(found, limit)

    def running(self) -> Iterator[TaskState]:
        """Yield the calls that run now, as far as is known."""
        return (task for task in self.tasks.values() if task.state == states.STARTED)

    def task_types(self) -> list[str]:
        """Return the names of the tasks that were told of."""
        return sorted(self.names)

    def alive_workers(self) -> Iterator[WorkerState]:
        """Yield the workers that were heard of in time."""
        now = self._now()
        return (worker for worker in self.workers.values() if worker.is_alive(now))

    def rate(self, kind: str, seconds: int = 10, *, name: str | None = None) -> float:
        """Return how many events of a type came a second in the last `seconds` whole ones; of one task, with `name`."""
        seconds = min(max(seconds, 1), RATES_KEPT)
        end = int(self._now())
        return sum(counted[kind, name] for at, counted in self._seconds if end - seconds <= at < end) / seconds

    def freeze_while(self, function: Callable[..., T], *args: Any, clear_after: bool = False, **kwargs: Any) -> T:
        """Return what `function` returns, which finds the state as it is; with `clear_after` what has ended is
        forgotten then. Events are taken in the same loop, so that none comes between."""
        try:
            return function(*args, **kwargs)
        finally:
            if clear_after:
                self.clear()

    def clear(self, ready: bool = True) -> None:
        """Forget counts and the calls that have ended; with `ready=False` all calls and workers."""
        if ready:
            for uuid in [uuid for uuid, task in self.tasks.items() if task.is_ready]:
                del self.tasks[uuid]
        else:
            self.tasks.clear()
            self.workers.clear()
        self.event_count = self.task_count = 0

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the calls that have ended, or all."""
        for uuid in [uuid for uuid, task in self.tasks.items() if task.is_ready or not ready]:
            del self.tasks[uuid]

    def _worker(self, hostname: str) -> WorkerState:
        worker = self.workers.get(hostname)
        if worker is None:
            worker = self.workers[sys.intern(hostname)] = WorkerState(sys.intern(hostname))
            if len(self.workers) > self.max_workers:
                self.workers.popitem(last=False)
        else:
            self.workers.move_to_end(hostname)
        return worker

    def _count(self, kind: str, name: str | None = None) -> None:
        second = int(self._now())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter()))
        self._seconds[-1][1][kind, name] += 1
        if name is None and (kind in self.counts or len(self.counts) < _MOST_NAMES):
            self.counts[kind] += 1

    def _count_name(self, name: str, subject: str, event: Mapping[str, Any]) -> None:
        stats = self.names.get(name)
        if stats is None:
            if len(self.names) >= _MOST_NAMES:
                return
            stats = self.names[name] = NameStats(name)
        if subject not in _STATES:
            return
        setattr(stats, subject, getattr(stats, subject) + 1)
        self._count(f"task-{subject}", name)
        runtime = event.get("runtime")
        if subject == "succeeded" and isinstance(runtime, (int, float)):
            stats.runtime += runtime
            stats.longest = max(stats.longest, runtime)


_ENDED: Final = frozenset({*states.READY_STATES, REJECTED})
#: What an event says of its call, beside its type and times.
_FIELDS: Final = (
    *("args", "kwargs", "result", "exception", "traceback", "runtime", "retries", "eta", "expires"),
    *("root_id", "parent_id", "queue", "exchange", "routing_key"),
)
#: What is shown of a call.
_INFO: Final = (
    *("args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key"),
    *("root_id", "parent_id"),
)
#: Letters of a text of which one is kept for all that are equal; an id has 36.
_MOST_SHARED: Final = 32


def _shared(given: Any) -> Any:
    """Return a text of which there is one, if it is short: `()`, `None` and the like come again and again."""
    return sys.intern(given) if type(given) is str and len(given) <= _MOST_SHARED else given
