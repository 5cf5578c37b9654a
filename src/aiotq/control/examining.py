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
from ..core.version import VERSION
from ..exceptions import AioTQError, OperationalError
from ..results import Ledger
from ..tasks.task import Task
from ..transport.routing import declared_queues
from .admin import Admin
from .asking import TIMEOUT, Answers, ask
from .findings import DeadFacts, Picture, TaskFacts, Thresholds, WorkerFacts
from .fleet import FleetMember
from .remote import Control

logger = logging.getLogger("aiotq.control")

#: Dead letters that are looked at, the newest.
_MOST_DEAD: Final = 1_000


async def picture_of(
    core: AppCore, *, periodic: int = 0, timeout: float = TIMEOUT, thresholds: Thresholds | None = None
) -> Picture:
    """Return how things stand with the app of `core`, which has `periodic` periodic tasks.

    Workers have `timeout` seconds to answer.

    Raises:
        OperationalError: broker or store can't be reached.
    """
    limits = thresholds if thresholds is not None else Thresholds()
    connection = await core.connection()
    admin, clock = Admin(core), core.clock
    members = await Control(core).fleet(timeout=timeout)
    asked_at = clock.time()
    clocks = await ask(core, "clock", timeout=timeout)
    middle = (asked_at + clock.time()) / 2
    registered = await ask(core, "registered", timeout=timeout)
    queues = {each.name: each for each in await admin.queues()}
    empty = [name for name in declared_queues(core.conf) if name not in queues]
    queues |= {each.name: each for each in await admin.queues(empty)} if empty else {}
    return Picture(
        now=clock.time(),
        version=VERSION,
        conf=core.conf,
        has_fleet=connection.ledger.has_fleet,
        members=members,
        workers={each.key: _facts_of(each, clocks, registered, middle) for each in members if each.kind == "worker"},
        queues=sorted(queues.values(), key=lambda each: each.name),
        tasks=[_task_facts(core, name, task) for name, task in sorted(core.registry.own_tasks.items())],
        dead=await _new_dead_letters(admin, clock.time() - limits.dead),
        periodic=periodic,
        server=await _server_warnings(connection),
        clock=await _clock_of(core, connection.ledger),
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


async def _new_dead_letters(admin: Admin, since: float) -> list[DeadFacts]:
    letters = [each for each in await admin.dead_letters(limit=_MOST_DEAD) if each.died_at >= since]
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
