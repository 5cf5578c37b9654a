"""Takes the picture that the rules of `findings` look at: asks broker, store, registry and workers, all of it once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

from ..calling.connection import Connection
from ..calling.core import AppCore
from ..calling.envelopes import declared_places
from ..core.values import replace
from ..core.version import VERSION
from ..exceptions import AioTQError, OperationalError
from ..results import Ledger
from ..states import RECEIVED, STARTED
from ..tasks.task import Task
from ..transport import QueueStats
from ..transport.routing import declared_queues
from .added_up import recent_of
from .admin import Admin
from .asking import TIMEOUT, Answers, ask
from .fleet import FleetMember
from .picture import DeadFacts, Picture, RunningFacts, ScheduleFacts, TaskFacts, Thresholds, WorkerFacts, thresholds_of
from .recent import Recent
from .remote import Control
from .views import LiveCall

logger = logging.getLogger("aiotq.control")

#: Dead letters that are looked at, the newest.
_MOST_DEAD: Final = 1_000


async def picture_of(
    core: AppCore,
    *,
    periodic: int = 0,
    schedules: Sequence[ScheduleFacts] = (),
    timeout: float = TIMEOUT,
    thresholds: Thresholds | None = None,
) -> Picture:
    """Return how things stand with the app of `core`, which has `periodic` periodic tasks that are sent.

    Workers have `timeout` seconds to answer.

    Raises:
        OperationalError: broker or store can't be reached.
    """
    limits = thresholds if thresholds is not None else thresholds_of(core.conf)
    connection = await core.connection()
    clock = core.clock
    members = await Control(core).fleet(timeout=timeout)
    asked_at = clock.time()
    clocks = await ask(core, "clock", timeout=timeout)
    middle = (asked_at + clock.time()) / 2
    registered = await ask(core, "registered", timeout=timeout)
    running = running_in(core, await ask(core, "active", timeout=timeout))
    now = clock.time()
    facts = [RunningFacts(each.id, each.name, each.worker, each.seconds or 0.0) for each in running]
    return replace(
        await seen_at_once(core, members, limits, recent_of((each.recent for each in members), now)),
        workers={each.key: _facts_of(each, clocks, registered, middle) for each in members if each.kind == "worker"},
        periodic=periodic,
        schedules=schedules,
        running=facts,
        server=await _server_warnings(connection),
        clock=await _clock_of(core, connection.ledger),
    )


async def seen_at_once(
    core: AppCore,
    members: Sequence[FleetMember],
    limits: Thresholds,
    recent: Recent,
    *,
    queues: Sequence[QueueStats] | None = None,
    dead: int = _MOST_DEAD,
) -> Picture:
    """Return the part of a picture for which no worker is asked: what a page shows that is looked at all the time.

    `queues` are those of `all_queues`, if they were read. Of dead letters the newest `dead` are looked at.
    """
    connection = await core.connection()
    admin, now = Admin(core), core.clock.time()
    return Picture(
        now=now,
        version=VERSION,
        conf=core.conf,
        has_fleet=connection.ledger.has_fleet,
        members=members,
        workers={},
        queues=await all_queues(core) if queues is None else queues,
        tasks=[_task_facts(core, name, task) for name, task in sorted(core.registry.own_tasks.items())],
        dead=await _new_dead_letters(admin, now - limits.dead, dead),
        recent=recent,
    )


async def all_queues(core: AppCore) -> Sequence[QueueStats]:
    """Return the queues that hold anything, are paused or are declared, by name."""
    admin = Admin(core)
    queues = {each.name: each for each in await admin.queues()}
    empty = [name for name in declared_queues(core.conf) if name not in queues]
    queues |= {each.name: each for each in await admin.queues(empty)} if empty else {}
    return sorted(queues.values(), key=lambda each: each.name)


def running_in(core: AppCore, answers: Answers) -> list[LiveCall]:
    """Return the calls that workers say they run."""
    now, found = core.clock.time(), list[LiveCall]()
    for worker, calls in answers.items():
        for call in cast("list[Any]", calls) if isinstance(calls, list) else ():
            if (live := _live(worker, call, STARTED, now)) is not None:
                found.append(live)
    return found


def reserved_in(answers: Answers) -> list[LiveCall]:
    """Return the calls that workers say wait in them for a slot."""
    found = list[LiveCall]()
    for worker, calls in answers.items():
        for call in cast("list[Any]", calls) if isinstance(calls, list) else ():
            if (live := _live(worker, call, RECEIVED, 0.0)) is not None:
                found.append(live)
    return found


def _live(worker: str, call: object, state: str, now: float) -> LiveCall | None:
    """Return what a worker says of a call; None if that can't be read."""
    said = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    task_id, name = said.get("id"), said.get("name")
    if not isinstance(task_id, str) or not isinstance(name, str):
        return None
    since = said.get("time_start")
    started = float(since) if isinstance(since, (int, float)) else None
    delivery = said.get("delivery_info")
    queue = cast("dict[str, Any]", delivery).get("queue") if isinstance(delivery, dict) else said.get("queue")
    parts = [str(said[part])[1:-1].rstrip(",") for part in ("args", "kwargs") if said.get(part)]
    return LiveCall(
        id=task_id,
        name=name,
        state=state,
        queue=str(queue or ""),
        worker=worker,
        since=started,
        args=", ".join(each for each in parts if each),
        retries=int(said.get("retries") or 0),
        root_id=said.get("root_id"),
        parent_id=said.get("parent_id"),
        kind=str(said.get("kind") or ""),
        seconds=None if started is None else max(now - started, 0.0),
    )


def _facts_of(member: FleetMember, clocks: Answers, registered: Answers, asked_at: float) -> WorkerFacts:
    clock, names = _answer_of(member, clocks), _answer_of(member, registered)
    offset = cast("dict[str, Any]", clock).get("clock") if isinstance(clock, dict) else None
    return WorkerFacts(
        frozenset(map(str, cast("list[Any]", names))) if isinstance(names, list) else None,
        float(offset) - asked_at if isinstance(offset, (int, float)) else None,
    )


def _answer_of(member: FleetMember, answers: Answers) -> Any:
    """Return what a worker answered: by its name, or by its key if another one has that name."""
    return answers.get(member.key, answers.get(member.name))


def _task_facts(core: AppCore, name: str, task: Task[..., Any]) -> TaskFacts:
    try:
        route = core.router.route(name, (), {}, {}, declared_places(task.declared), task)
    except AioTQError as exc:
        return TaskFacts(name, (), task.runs_in, str(exc))
    return TaskFacts(name, tuple(route.queues), task.runs_in)


async def _new_dead_letters(admin: Admin, since: float, most: int) -> list[DeadFacts]:
    letters = [each for each in await admin.dead_letters(limit=most) if each.died_at >= since]
    counts = Counter(each.queue for each in letters)
    return [
        DeadFacts(queue, count, tuple(sorted({each.reason for each in letters if each.queue == queue})))
        for queue, count in sorted(counts.items())
    ]


async def _server_warnings(connection: Connection) -> Sequence[str]:
    with suppress(OperationalError):  # it may keep its settings to itself
        return await connection.warnings()
    return ()


async def _clock_of(core: AppCore, ledger: Ledger) -> float:
    """Return by how many seconds the store's clock is ahead of ours."""
    before = core.clock.time()
    theirs = await ledger.time()
    return theirs - (before + core.clock.time()) / 2
