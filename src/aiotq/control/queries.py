"""What is asked of an app by whoever shows it: one set of queries for the terminal, the dashboard and the JSON API.

Each answers with plain values (`views`). Nothing here changes anything, and nothing is kept but the last look at the
queues, the registry and what workers said, for those who look again within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Generic, Literal, TypeVar, cast
from uuid import UUID

from ..beat.manage import PeriodicTask, Schedules
from ..calling.core import AppCore
from ..core.values import replace
from ..exceptions import AioTQError, ResultsDisabled, StoreRequired
from ..graph.builder import calls_in_plan
from ..results.index import Finished, FinishedPage, FinishedQuery
from ..results.lineage import PLAN, plan_id
from ..states import FAILURE, PENDING, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS, is_ready
from ..transport import ALL_DELAYED, QueueStats
from .added_up import recent_of
from .admin import Admin
from .asking import ask
from .examining import all_queues, reserved_in, running_in, seen_at_once
from .findings import examined
from .fleet import FleetMember
from .one_call import look_at_call, shown_letter
from .picture import Finding, RunningFacts, ScheduleFacts, thresholds_of
from .recent import LATELY, Recent, total_of
from .remote import Control
from .standing import Standing
from .views import (
    DELAYED,
    CallsPage,
    CallView,
    DeadView,
    LiveCall,
    LiveCalls,
    Overview,
    QueueView,
    Stacks,
    WorkflowPage,
    WorkflowView,
)

T = TypeVar("T")

#: Seconds that workers have to say what they run, and any part of a page to be read.
_ANSWERING: Final = 1.0
_PATIENCE: Final = 5.0
#: Seconds that workers have to say where they stand; letters of all that they say, and of one at least.
_DIGGING: Final = 2.0
_MOST_STACKS: Final = 40_000
_LEAST_STACK: Final = 1_000
#: Seconds for which the state of the fleet is told again: open pages don't add up to load.
_TOLD_AGAIN: Final = 1.0
#: Seconds between two looks from which rates are made, at least.
_APART: Final = 5.0
#: Tasks in the lists of those that fail most and are slowest.
_MOST_TASKS: Final = 10
#: Dead letters that an overview looks at; calls of one workflow whose states are read; delayed calls of a queue.
_DEAD_LOOKED_AT: Final = 50
_MOST_CALLS: Final = 500
_MOST_DELAYED: Final = 200
#: Workers that did not answer are named, so many of them.
_MOST_NAMED: Final = 5
#: No index is kept, or no results at all.
_UNSEARCHABLE: Final = (ResultsDisabled, StoreRequired)


class Queries:
    """Answers questions about the app of `core`.

    Raises `OperationalError` when broker or store can't be reached, but for `overview`, which says so in its notes.
    """

    def __init__(self, core: AppCore) -> None:
        self._core = core
        self._waiting: dict[str, tuple[float, int]] = {}  #: by queue: when it was looked at, and how many waited
        self._coming: dict[str, float] = {}
        self._rows = Standing()
        self._standing = _Again[tuple[Sequence[FleetMember], Recent]](self._read_standing)
        self._live = _Again[LiveCalls](self._ask_live)

    async def fleet(self) -> Sequence[FleetMember]:
        """Return the workers and schedulers, by name."""
        return (await self._standing.read())[0]

    async def recent(self) -> Recent:
        """Return what ended in the last hour."""
        return (await self._standing.read())[1]

    async def live(self) -> LiveCalls:
        """Return what workers say that they run; they have a second to answer."""
        return await self._live.read()

    async def overview(self, minutes: int = 60, live: LiveCalls | None = None) -> Overview:
        """Return how things stand, with figures of so many of the last minutes.

        Workers are asked what they run unless that is given, as far as it is known: so no worker is waited for.
        """
        notes: list[str] = []

        async def part(name: str, reading: Awaitable[T], instead: T) -> T:
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await reading
            except (AioTQError, TimeoutError) as exc:
                notes.append(f"{name}: {str(exc) or f'no answer in {_PATIENCE:g} s'}")
                return instead

        now = self._core.now()
        said = await part("workers", self.live(), LiveCalls()) if live is None else live
        members, recent = await part("workers", self._stands(said), ((), recent_of((), now)))
        stats = await part("queues", all_queues(self._core), ())
        schedules = await part("schedules", self.schedules(), ())
        examining = self._examined(members, recent, said, schedules, stats)
        findings = await part("what needs a look", examining, ())
        by_task = recent.by_task()
        failing = sorted((each for each in by_task if each.hour.failed), key=lambda each: -each.hour.failed)
        slowest = sorted((each for each in by_task if each.hour.run), key=lambda each: -(each.hour.ran(0.95) or 0.0))
        return Overview(
            now,
            recent,
            recent.last(minutes),
            tuple(findings),
            tuple(self._views(stats, members, recent)),
            tuple(members),
            tuple(failing[:_MOST_TASKS]),
            tuple(slowest[:_MOST_TASKS]),
            tuple(schedules),
            tuple(dict.fromkeys(notes)),
        )

    async def findings(self) -> Sequence[Finding]:
        """Return what needs a look, the worst first; what only workers themselves could tell is `aiotq doctor`'s."""
        live = await self.live()
        members, recent = await self._stands(live)
        return await self._examined(members, recent, live, await self.schedules(), await all_queues(self._core))

    async def queues(self) -> Sequence[QueueView]:
        """Return the queues, by name, and how each keeps up."""
        members, recent = await self._standing.read()
        return self._views(await all_queues(self._core), members, recent)

    async def running(self) -> Sequence[LiveCall]:
        """Return the calls that run, those that began first in front; the slow ones say so."""
        return (await self.live()).running

    async def stacks(self, worker: str | None = None) -> Stacks:
        """Return where everything in `worker`, or in all of them, stands now; of many workers less of each."""
        answers = await Control(self._core).inspect(worker, timeout=_DIGGING).stacks()
        most = max(_MOST_STACKS // max(len(answers), 1), _LEAST_STACK)
        told = [(name, str(_ok(answer))[:most]) for name, answer in sorted(answers.items())]
        return Stacks(self._core.now(), tuple(told[: _MOST_STACKS // most]), answers.silent)

    async def calls(self, query: FinishedQuery, live: LiveCalls | None = None) -> CallsPage:
        """Return a page of finished calls, and what is `live` of those that fit, with those that wait for their time.

        Of those that wait in a queue there is a count alone: a broker does not list them.
        """
        notes: tuple[str, ...] = ()
        found: list[LiveCall] = []
        if live is not None and query.cursor is None:
            found, notes = [each for each in live.all if _fits(each, query)], live.notes
        problem: str | None = None
        page = FinishedPage((), None, {})
        try:
            page = await self._find(query)
        except _UNSEARCHABLE as exc:
            problem = str(exc)
        counts = {state: count for state, count in page.counts.items() if state in READY_STATES}
        for each in found:
            counts[each.state] = counts.get(each.state, 0) + 1
        return CallsPage(tuple(found), page.tasks, page.cursor, counts, page.looked_back_to, problem, notes)

    async def call(self, task_id: str, live: LiveCalls | None = None) -> CallView:
        """Return all that is known of one call; workers are asked for it unless what they said is given."""
        said = await self.live() if live is None else live
        here = next((each for each in said.all if each.id == task_id), None)
        if here is None and not is_ready(await self._state_of(task_id)):  # it may have been sent since they were asked
            here = next((each for each in await self._delayed() if each.id == task_id), None)
        _, recent = await self._stands(said)
        return await look_at_call(self._core, task_id, here, recent, self._find)

    async def workflows(self, limit: int = 20, cursor: str | None = None) -> WorkflowPage:
        """Return workflows, the newest first, and how far they are."""
        try:
            page = await self._find(FinishedQuery(states=(PLAN,), limit=limit, cursor=cursor))
        except _UNSEARCHABLE as exc:
            return WorkflowPage((), None, str(exc))
        return WorkflowPage(tuple([await self._workflow(each) for each in page.tasks]), page.cursor)

    async def schedules(self) -> Sequence[PeriodicTask]:
        """Return the periodic tasks, by name."""
        return await Schedules(self._core).list()

    async def runs_of(self, schedule: str, limit: int = 24) -> Sequence[Finished]:
        """Return the last runs of a periodic task that the index has, the newest first."""
        with suppress(*_UNSEARCHABLE):
            return (await self._find(FinishedQuery(periodic=schedule, limit=limit))).tasks
        return ()

    async def run_times(self, root_id: str) -> Mapping[str, float]:
        """Return for how many seconds calls of a workflow ran, by their ids, as far as the index has them."""
        query = FinishedQuery(root_id=root_id, since=_made_at(root_id), limit=_MOST_CALLS)
        with suppress(*_UNSEARCHABLE):
            return {each.id: each.ran for each in (await self._find(query)).tasks if each.ran is not None}
        return {}

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadView]:
        """Return dead letters, the newest first."""
        letters = await Admin(self._core).dead_letters(queue, limit=limit)
        return [shown_letter(self._core, each) for each in letters]

    async def _read_standing(self) -> tuple[Sequence[FleetMember], Recent]:
        ledger, now = (await self._core.connection()).ledger, self._core.now()
        if ledger.has_fleet:
            return await self._rows.read(ledger, now)
        members = await Control(self._core).fleet()
        return members, recent_of((each.recent for each in members), now)

    async def _stands(self, live: LiveCalls) -> tuple[Sequence[FleetMember], Recent]:
        """Return who is there and what ended, without asking a worker: where no registry knows, `live` may."""
        if (await self._core.connection()).ledger.has_fleet:
            return await self._standing.read()
        members = live.members or ()
        return members, recent_of((each.recent for each in members), self._core.now())

    async def _examined(
        self,
        members: Sequence[FleetMember],
        recent: Recent,
        live: LiveCalls,
        schedules: Sequence[PeriodicTask],
        stats: Sequence[QueueStats],
    ) -> Sequence[Finding]:
        limits = thresholds_of(self._core.conf)
        picture = await seen_at_once(self._core, members, limits, recent, queues=stats, dead=_DEAD_LOOKED_AT)
        running = [RunningFacts(each.id, each.name, each.worker, each.seconds or 0.0) for each in live.running]
        last = [ScheduleFacts(each.name, each.last_state, each.last_id) for each in schedules if not each.is_paused]
        return examined(replace(picture, running=running, schedules=last, periodic=len(last)), limits)

    def _views(
        self, every: Sequence[QueueStats], members: Sequence[FleetMember], recent: Recent
    ) -> Sequence[QueueView]:
        now, views = self._core.now(), list[QueueView]()
        for stats in every:
            workers = tuple(each.name for each in members if not each.is_missing and stats.name in each.queues)
            ended = [each for each in recent.tasks if each.queue == stats.name]
            lately = total_of(each.lately for each in ended)
            going = lately.count / LATELY
            coming = self._rate_in(stats, going, now)
            views.append(QueueView(stats, _state_of(stats, workers, coming, going), workers, going, coming, lately))
        return views

    async def _ask_live(self) -> LiveCalls:
        has_fleet = (await self._core.connection()).ledger.has_fleet
        members, recent = await self._standing.read()
        known = members if has_fleet else None
        try:
            async with asyncio.TaskGroup() as group:
                active, reserved = (
                    group.create_task(ask(self._core, question, timeout=_ANSWERING, members=known))
                    for question in ("active", "reserved")
                )
        except* AioTQError as failed:
            raise failed.exceptions[0] from None
        usual = {each.task: each.hour.ran(0.95) for each in recent.by_task()}
        running = [replace(each, usual=usual.get(each.name)) for each in running_in(self._core, active.result())]
        return LiveCalls(
            tuple(sorted(running, key=lambda each: each.since or 0.0)),
            tuple(reserved_in(reserved.result())),
            tuple(await self._delayed()),
            _unsaid(active.result().silent),
            None if has_fleet else tuple(members),
            is_known=True,
        )

    async def _state_of(self, task_id: str) -> str:
        with suppress(*_UNSEARCHABLE):
            return (await (await self._core.reader()).records.states([task_id]))[0] or PENDING
        return PENDING

    async def _delayed(self) -> list[LiveCall]:
        broker = (await self._core.connection()).broker
        found: list[LiveCall] = []
        for stats in await all_queues(self._core):
            for envelope in await broker.delayed(stats.name, limit=_MOST_DELAYED) if stats.delayed else ():
                message = envelope.message
                state = RETRY if message.retries else DELAYED
                found.append(
                    LiveCall(
                        *(message.id, message.task, state, envelope.queue),
                        since=envelope.due,
                        retries=message.retries,
                        root_id=message.root_id,
                        parent_id=message.parent_id,
                    )
                )
        return found

    async def _find(self, query: FinishedQuery) -> FinishedPage:
        """As `RecordStore.find`; raises `ResultsDisabled` where no results are kept."""
        connection = await self._core.connection()
        if not connection.keeps_results:
            raise ResultsDisabled("no results are kept, so finished tasks can't be searched: set result_backend")
        return await connection.records.find(query)

    async def _workflow(self, entry: Finished) -> WorkflowView:
        """Return how far a workflow is: by its stored plan, and the states of the calls in it."""
        reader = await self._core.reader()
        (record,) = await reader.records.get([plan_id(entry.id)])
        ids: list[str] = []
        if record is not None:
            with suppress(AioTQError):
                ids = list(dict.fromkeys(calls_in_plan(reader.codec.decode(record).result)))
        known = [each for each in await reader.records.states(ids[:_MOST_CALLS]) if each is not None]
        ended = sum(each in READY_STATES for each in known)
        failed = known.count(FAILURE)
        is_over = bool(ids) and ended >= len(ids)
        if failed or REVOKED in known:
            state = FAILURE if failed else REVOKED
        else:
            state = SUCCESS if is_over else STARTED if known else PENDING
        return WorkflowView(
            *(entry.id, entry.name, entry.args, entry.ended, state, len(ids), ended, failed, known.count(RETRY)),
            is_whole=0 < len(ids) <= _MOST_CALLS,
            key=entry.key,
        )

    def _rate_in(self, stats: QueueStats, going: float, now: float) -> float | None:
        """Return how many calls a minute come into a queue: what goes out, and by how much it grows meanwhile."""
        waiting = stats.ready + stats.leased
        at, before = self._waiting.setdefault(stats.name, (now, waiting))
        if now - at >= _APART:
            self._waiting[stats.name] = now, waiting
            self._coming[stats.name] = max(0.0, going + (waiting - before) * 60.0 / (now - at))
        return self._coming.get(stats.name)


class _Again(Generic[T]):
    """What is read once for all who ask within a second."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._found: tuple[float, T] | None = None

    async def read(self) -> T:
        """Return what was read last, or read it anew."""
        async with self._lock:
            loop_time = asyncio.get_running_loop().time()
            if self._found is None or loop_time - self._found[0] >= _TOLD_AGAIN:
                found = await self._read()
                self._found = asyncio.get_running_loop().time(), found
            return self._found[1]


def _made_at(task_id: str) -> float | None:
    """Return when a call was made whose id is one of ours: it begins with the time (decision 0007)."""
    try:
        found = UUID(task_id)
    except ValueError:
        return None
    return (found.int >> 80) / 1000 if found.version == 7 else None


def _ok(answer: object) -> object:
    said = cast("dict[str, object]", answer) if isinstance(answer, dict) else {"ok": answer}
    return said.get("ok", said)


def _unsaid(silent: Sequence[str]) -> tuple[str, ...]:
    """Say which workers did not tell what they run."""
    if not silent:
        return ()
    more = f" and {len(silent) - _MOST_NAMED} more" if len(silent) > _MOST_NAMED else ""
    return (f"{', '.join(silent[:_MOST_NAMED])}{more} did not say what runs there",)


def _fits(call: LiveCall, query: FinishedQuery) -> bool:
    """Whether a live call is among those that are searched for, as far as that can be known."""
    text = query.text.casefold()
    return (
        not query.states
        and (not query.name or call.name == query.name)
        and (not query.queue or call.queue == query.queue)
        and (not query.worker or call.worker == query.worker)
        and call.id.startswith(query.id_prefix)
        and (not query.root_id or query.root_id in (call.root_id, call.id))
        and (not query.parent_id or query.parent_id == call.parent_id)
        and not (query.periodic or query.until is not None)
        and (not text or any(text in said.casefold() for said in (call.args, call.name, call.id)))
    )


def _state_of(
    stats: QueueStats, workers: Sequence[str], coming: float | None, going: float
) -> Literal["idle", "keeps up", "behind", "paused", "no worker"]:
    if stats.paused_since is not None:
        return "paused"
    if stats.name == ALL_DELAYED:
        return "idle"
    if not workers:
        return "no worker" if stats.ready or stats.delayed else "idle"
    if not stats.ready and not stats.leased:
        return "idle"
    is_growing = coming is not None and coming > going * 1.1 + 1
    return "behind" if is_growing and (stats.oldest_age or 0.0) > _APART else "keeps up"
