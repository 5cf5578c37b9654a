"""The commands that every worker obeys, with Celery's names: functions of the worker and of typed arguments.

Each answers with what JSON can say. An error it raises is the answer; nothing here can end a worker (P10).
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import threading
import tracemalloc
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol

from ..backends.base import shown_place
from ..calling.core import AppCore
from ..core.schedules import seconds_apart
from ..core.system import most_resident_bytes, resident_bytes, used
from ..core.values import value
from ..exceptions import CallError, NotRegistered
from ..tasks.options import check_limits
from ..transport import Delivery
from ..transport.routing import select_queues
from ..wire.message import Envelope, Message, is_name
from .declared import DeclaredCommand, declare
from .event_format import iso
from .shown_settings import setting_rows

#: Lines of code that have allocated most, as `memory` lists them.
_TOP: Final = 10
#: Kinds of slots whose number a command may change: child processes are made when a worker starts.
_POOLS: Final = ("loop", "thread")
#: Slots of a kind, at most.
MOST_SLOTS: Final = 1_000_000
#: Delayed calls that `scheduled` returns of each queue, at most.
_MOST_DELAYED: Final = 1_000


@value
class DelayedCall:
    """A call that waits in the broker for its due time."""

    envelope: Envelope
    arguments: tuple[str, str] | None  #: as they may be shown, if they can be read


@value
class RunningCall:
    """A call that a worker runs."""

    delivery: Delivery
    kind: str
    since: float  #: wall time
    is_acknowledged: bool
    arguments: tuple[str, str] | None  #: as they may be shown, if they can be read


class Steered(Protocol):
    """The part of a worker that commands use."""

    @property
    def core(self) -> AppCore: ...
    @property
    def user_facing(self) -> object:
        """The worker as users know it: the first argument of their commands."""
        ...

    @property
    def name(self) -> str: ...
    @property
    def commands(self) -> MutableMapping[str, int]:
        """How many commands this worker heard, by what it did with them."""
        ...

    @property
    def started(self) -> float: ...
    @property
    def queues(self) -> tuple[str, ...]: ...
    @property
    def completed(self) -> Mapping[str, int]: ...
    @property
    def is_paused(self) -> bool: ...
    def running(self) -> Sequence[RunningCall]: ...
    def reserved(self) -> Sequence[Delivery]: ...
    def slots(self) -> Mapping[str, tuple[int, int]]:
        """Return by kind how many run, and how many may."""
        ...

    @property
    def paused_queues(self) -> Collection[str]:
        """Those of its queues that are paused for all workers."""
        ...

    def add_queue(self, name: str) -> bool: ...
    def remove_queue(self, name: str) -> bool: ...
    async def delayed(self, limit: int) -> Sequence[DelayedCall] | None:
        """Return what is delayed in the worker's queues, at most `limit` of each; None: the broker can't list it."""
        ...

    async def revocations(self) -> Mapping[str, float]:
        """Return what is revoked, and until when."""
        ...

    async def announce(self) -> None:
        """Write the worker's row into the fleet registry now, and tell those who read events."""
        ...

    def resize(self, kind: str, capacity: int) -> None: ...
    def autoscale(self, kind: str, least: int, most: int) -> None: ...
    async def restart_processes(self) -> int:
        """Have child processes replaced; return how many there were."""
        ...

    def limit_rate(self, task: str, interval: float | None) -> None: ...
    def limit_time(self, task: str, soft: float | None, hard: float | None) -> None: ...

    @property
    def sends_events(self) -> bool:
        """Whether events go to those who don't ask for them, too."""
        ...

    def send_events(self, to_all: bool) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def ask_to_stop(self) -> None: ...
    def standing(self) -> Sequence[str]: ...
    def row(self) -> Mapping[str, Any]: ...


def ping(worker: Steered) -> object:
    """Say that the worker is there."""
    return {"ok": "pong"}


def presence(worker: Steered) -> object:
    """The worker's row in the fleet registry."""
    return worker.row()


def active(worker: Steered) -> object:
    """The calls that run now."""
    return [
        {
            **_about(worker, call.delivery),
            **_shown_arguments(call.arguments),
            "kind": call.kind,
            "time_start": call.since,
            "acknowledged": call.is_acknowledged,
        }
        for call in worker.running()
    ]


def reserved(worker: Steered) -> object:
    """The calls that wait in the worker for a slot."""
    return [_about(worker, delivery) for delivery in worker.reserved()]


async def scheduled(worker: Steered, limit: int = 100) -> object:
    """The calls that wait in the broker for their due time, the first to be due first: at most limit of each queue."""
    if not 1 <= limit <= _MOST_DELAYED:
        raise CallError(f"scheduled: limit is 1 to {_MOST_DELAYED}, not {limit}")
    calls = await worker.delayed(limit)
    if calls is None:
        raise CallError("scheduled: this broker (RabbitMQ) can't list what it has delayed; aiotq queues counts it")
    return [
        {
            "eta": iso(call.envelope.due),
            "priority": call.envelope.priority,
            "request": {
                **_about_message(call.envelope.message),
                **_shown_arguments(call.arguments),
                "queue": call.envelope.queue,
            },
        }
        for call in sorted(calls, key=lambda each: each.envelope.due or 0.0)
    ]


async def revoked(worker: Steered) -> object:
    """The revocations, the last to end first, and until when: of ids, tasks, roots, headers and stamps."""
    return [{"what": what.strip(), "until": until} for what, until in (await worker.revocations()).items()]


def query_task(worker: Steered, *ids: str) -> object:
    """The calls with these ids that the worker has, and whether each is active or reserved."""
    wanted = frozenset(ids)
    found = {call.delivery.message.id: ["active", _about(worker, call.delivery)] for call in worker.running()}
    found |= {each.message.id: ["reserved", _about(worker, each)] for each in worker.reserved()}
    return {task_id: what for task_id, what in found.items() if task_id in wanted}


def registered(worker: Steered) -> object:
    """The tasks that the worker knows."""
    return sorted(worker.core.tasks)


def active_queues(worker: Steered) -> object:
    """The queues that the worker takes from."""
    paused = worker.paused_queues
    return [{"name": name, "is_paused": worker.is_paused or name in paused} for name in worker.queues]


def stats(worker: Steered) -> object:
    """Numbers: what was done, slots, uptime, use of the machine."""
    now = worker.core.clock.time()
    return {
        "pid": os.getpid(),
        "uptime": round(now - worker.started, 3),
        "clock": now,
        "total": dict(worker.completed),
        "pool": {kind: {"running": taken, "max": most} for kind, (taken, most) in worker.slots().items()},
        "is_paused": worker.is_paused,
        "rusage": dict(used()),
        "commands": dict(worker.commands),
    }


def conf(worker: Steered, changed: bool = False) -> object:
    """The settings, without secrets; with changed=true only those that have not their default."""
    rows = setting_rows(worker.core.conf)
    return {row.name: row.value for row in rows if row.is_changed or not changed}


def report(worker: Steered) -> object:
    """Versions and places, as text for a bug report."""
    core = worker.core
    said = {
        "aiotq": worker.row()["version"],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "app": str(core.main),
        "broker": shown_place(core.conf.broker_url),
        "results": shown_place(core.conf.result_backend or core.conf.broker_url),
        "queues": ", ".join(worker.queues),
        "tasks": str(len(core.tasks)),
    }
    said |= {row.name: row.shown for row in setting_rows(core.conf) if row.is_changed}
    return {"ok": "\n".join(f"{name}: {text}" for name, text in said.items())}


def clock(worker: Steered) -> object:
    """The worker's wall time, to be compared with others'."""
    return {"clock": worker.core.clock.time()}


def memory(worker: Steered) -> object:
    """Memory, threads, and what allocated most where tracemalloc is on (PYTHONTRACEMALLOC=1)."""
    found: dict[str, Any] = {
        "rss": resident_bytes(),
        "max_rss": most_resident_bytes(),
        "threads": threading.active_count(),
        "running": len(worker.running()),
        "collected": [each["collections"] for each in gc.get_stats()],
    }
    if tracemalloc.is_tracing():
        top = tracemalloc.take_snapshot().statistics("lineno")[:_TOP]
        found["traced"] = tracemalloc.get_traced_memory()[0]
        found["top"] = [{"line": str(each.traceback), "size": each.size, "count": each.count} for each in top]
    return found


def stacks(worker: Steered) -> object:
    """Where each running call, each other coroutine and each thread stands."""
    return {"ok": "\n".join(worker.standing())}


def rate_limit(worker: Steered, task_name: str, rate: str | float | None) -> object:
    """Change how often a task starts: 10/s, 100/m, 5/h; 0 or none: as often as it can."""
    _known(worker, task_name)
    try:
        interval = None if rate is None else seconds_apart(rate)
    except ValueError as exc:
        raise CallError(f"rate_limit: {exc}: write it as 10/s, 100/m or 5/h") from None
    worker.limit_rate(task_name, interval)
    return {"ok": "rate limit is off" if interval is None else f"rate limit is {rate}"}


def time_limit(worker: Steered, task_name: str, soft: float | None = None, hard: float | None = None) -> object:
    """Change the time limits (seconds) of calls of a task that start from now on; none: there is no such limit."""
    _known(worker, task_name)
    for limit in (hard, soft):
        if limit is not None and not limit > 0:
            raise CallError(f"time_limit: a limit is seconds, more than 0, not {limit!r}")
    check_limits(f"time_limit of {task_name}", soft, hard)
    if hard is not None and worker.core.tasks[task_name].runs_in == "thread":
        raise CallError(f"time_limit: {task_name} runs in threads, which can't be stopped: give it a soft limit alone")
    worker.limit_time(task_name, soft, hard)
    return {"ok": "time limits are set"}


def pool_grow(worker: Steered, n: int = 1, kind: str = "loop") -> object:
    """Run n calls more at once; kind is loop (coroutines) or thread."""
    return _resized(worker, n, kind)


def pool_shrink(worker: Steered, n: int = 1, kind: str = "loop") -> object:
    """Run n calls fewer at once: what runs goes on."""
    return _resized(worker, -n, kind)


def autoscale(worker: Steered, max: int, min: int = 1, kind: str = "loop") -> object:  # Celery's names
    """Have min to max slots: more as soon as all are taken, fewer when few were for half a minute."""
    _check_kind(kind)
    if not 1 <= min <= max <= MOST_SLOTS:
        raise CallError(f"autoscale: 1 <= min <= max <= {MOST_SLOTS}, not min {min} and max {max}")
    worker.autoscale(kind, min, max)
    return {"ok": f"autoscale now max={max} min={min} ({kind})"}


async def pool_restart(worker: Steered) -> object:
    """Replace child processes by fresh ones, which import the code as it is now; what runs goes on."""
    count = await worker.restart_processes()
    return {"ok": f"child processes to be replaced: {count}"}


def add_consumer(worker: Steered, queue: str) -> object:
    """Take from a queue too."""
    if not is_name(queue):
        raise CallError(f"add_consumer: a queue's name is printable characters, not {queue!r}")
    (name,) = select_queues(worker.core.conf, [queue])
    if not worker.add_queue(name):
        return {"ok": f"already consuming from {name!r}"}
    return {"ok": f"add consumer {name!r}"}


def cancel_consumer(worker: Steered, queue: str) -> object:
    """Take from a queue no more; what was taken goes on."""
    if not worker.remove_queue(queue):
        return {"ok": f"not consuming from {queue!r}"}
    return {"ok": f"no longer consuming from {queue!r}"}


async def heartbeat(worker: Steered) -> object:
    """Say now that the worker is there: in its row of the registry, and to those who read events."""
    await worker.announce()
    return {"ok": "heartbeat sent"}


def pause(worker: Steered) -> object:
    """Take no more messages until `resume`; what runs goes on."""
    worker.pause()
    return {"ok": "paused"}


def resume(worker: Steered) -> object:
    """Take messages again."""
    worker.resume()
    return {"ok": "resumed"}


def enable_events(worker: Steered) -> object:
    """Send events, as -E does: to Celery's monitors, and to readers who don't ask for them."""
    if worker.sends_events:
        return {"ok": "task events already enabled"}
    worker.send_events(True)
    return {"ok": "task events enabled"}


def disable_events(worker: Steered) -> object:
    """Send events only while somebody asks for them."""
    if not worker.sends_events:
        return {"ok": "task events already disabled"}
    worker.send_events(False)
    return {"ok": "task events disabled"}


def log_level(worker: Steered, level: str, logger: str = "") -> object:
    """Change the level of a logger (default: of all): DEBUG, INFO, WARNING, ERROR, CRITICAL."""
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise CallError(f"log_level: a level is one of {', '.join(known)}, not {level!r}")
    logging.getLogger(logger or None).setLevel(level.upper())
    return {"ok": f"level of {logger or 'all loggers'} is {level.upper()}"}


def shutdown(worker: Steered) -> object:
    """Stop cleanly: take no more, let what runs finish for the grace time, hand back the rest."""
    worker.ask_to_stop()
    return {"ok": "stopping"}


_INSPECT: Final[Sequence[Callable[..., object]]] = (
    *(ping, active, reserved, scheduled, revoked, query_task, registered, active_queues, stats, conf, report, clock),
    *(memory, stacks, presence),
)
_CONTROL: Final[Sequence[Callable[..., object]]] = (
    *(rate_limit, time_limit, pool_grow, pool_shrink, autoscale, pool_restart, add_consumer, cancel_consumer),
    *(pause, resume, heartbeat, log_level, shutdown),
    *(enable_events, disable_events),
)


def builtin_commands() -> dict[str, DeclaredCommand]:
    """Return the commands that every worker obeys, by their names."""
    found = [declare(each, "inspect") for each in _INSPECT] + [declare(each, "control") for each in _CONTROL]
    return {each.name: each for each in found}


def _about(worker: Steered, delivery: Delivery) -> dict[str, Any]:
    return {
        **_about_message(delivery.message),
        "hostname": worker.name,
        "worker_pid": os.getpid(),
        "queue": delivery.queue,
        "priority": delivery.priority,
        "redelivered": delivery.deaths + delivery.returns > 0,
    }


def _about_message(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "name": message.task,
        "type": message.task,
        "retries": message.retries,
        "root_id": message.root_id,
        "parent_id": message.parent_id,
        "sent_at": message.sent_at,
    }


def _shown_arguments(arguments: tuple[str, str] | None) -> dict[str, str | None]:
    args, kwargs = (None, None) if arguments is None else arguments
    return {"args": args, "kwargs": kwargs}


def _known(worker: Steered, task: str) -> None:
    if task not in worker.core.tasks:
        raise NotRegistered(task)


def _check_kind(kind: str) -> None:
    if kind not in _POOLS:
        raise CallError(f"slots that can grow and shrink are {' and '.join(_POOLS)}, not {kind!r}")


def _resized(worker: Steered, change: int, kind: str) -> object:
    _check_kind(kind)
    capacity = worker.slots()[kind][1] + change
    if not 1 <= capacity <= MOST_SLOTS:
        raise CallError(f"a worker has 1 to {MOST_SLOTS} slots of a kind, not {capacity}")
    worker.resize(kind, capacity)
    return {"ok": f"{capacity} slots ({kind})"}
