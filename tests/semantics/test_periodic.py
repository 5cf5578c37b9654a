"""Periodic tasks on every broker with a ledger: declared, sent once, shown, changed at run time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from aiotq import AioTQ, chain, crontab, group, interval, once, signals
from aiotq.backends.postgres.lane import Lane
from aiotq.backends.redis.connection import RedisClient
from aiotq.backends.sqlite.connection import Database
from aiotq.beat.scheduler import Scheduler
from aiotq.core.clock import SystemClock
from aiotq.core.inside import core_of
from aiotq.exceptions import ScheduleError
from aiotq.results import Permit, ScheduleChange

from ..waiting import wait_until
from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ
#: Schemes of brokers that have a clock of their own.
SERVERS_CLOCK = ("redis", "postgresql")

Declare = Callable[[AioTQ], None]


class Kit:
    """One app as several processes have it, and what its tasks were run for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[tuple[str, datetime | None]] = []

    def app(self, declare: Declare | None = None, **settings: Any) -> AioTQ:
        """Make an app; `clock` is what it takes the time from."""
        app = AioTQ("proj", broker=self.url, **{"worker_lease": 1.0, **settings})
        noted = self.seen

        @app.task(name="proj.note", bind=True)
        async def note(self: Any, mark: str = "x", *, seconds: float = 0.0) -> str:
            periodic = self.request.periodic
            noted.append((mark, None if periodic is None else periodic.due))
            if seconds:
                await asyncio.sleep(seconds)
            return mark

        if declare is not None:
            declare(app)
        return app

    def count(self, mark: str = "x") -> int:
        return sum(each == mark for each, _ in self.seen)

    def dues(self, mark: str = "x") -> list[datetime]:
        return [due for each, due in self.seen if each == mark and due is not None]


@pytest.fixture
def kit(url: str) -> Kit:
    return Kit(url)


@asynccontextmanager
async def running(app: AioTQ, schedulers: int = 1) -> AsyncIterator[list[Scheduler]]:
    async with app, app.worker(), AsyncExitStack() as stack:
        yield [await stack.enter_async_context(app.beat()) for _ in range(schedulers)]


def every(seconds: float, mark: str = "x", **options: Any) -> Declare:
    def declare(app: AioTQ) -> None:
        given: Any = {"expires": None, **options}  # a busy machine is late
        app.add_periodic_task(seconds, app.tasks["proj.note"].s(mark), name=f"each-{mark}", **given)

    return declare


def steps_between(dues: list[datetime]) -> set[timedelta]:
    return {later - sooner for sooner, later in pairwise(sorted(dues))}


async def test_an_interval_is_sent_again_and_again_and_its_task_knows_what_for(kit: Kit) -> None:
    async with running(kit.app(every(0.1, misfire="all"))):  # a busy machine may be late for one
        await wait_until(lambda: kit.count() >= 4, "four runs")

    dues = kit.dues()
    assert len(set(dues)) == len(dues) == kit.count()
    assert steps_between(dues) == {timedelta(seconds=0.1)}


async def test_three_schedulers_send_each_occurrence_once(kit: Kit) -> None:
    apps = [kit.app(every(0.05, misfire="all")) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(running(app))
        await wait_until(lambda: kit.count() >= 20, "twenty runs")

    assert Counter(kit.dues()).most_common(1)[0][1] == 1


async def test_two_that_both_take_themselves_for_the_live_one_send_each_occurrence_once(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit saves work. What is right does not depend on it."""

    async def yes(*_: object) -> bool:
        return True

    monkeypatch.setattr(Scheduler, "_has_permit", yes)
    async with running(kit.app(every(0.05, misfire="all")), schedulers=3):
        await wait_until(lambda: kit.count() >= 20, "twenty runs")

    dues = sorted(kit.dues())
    assert Counter(dues).most_common(1)[0][1] == 1
    assert steps_between(dues) == {timedelta(seconds=0.05)}


async def test_another_scheduler_takes_over_and_nothing_is_missed(kit: Kit) -> None:
    app = kit.app(every(0.1, misfire="all"))
    async with app, app.worker():
        both = app.beat(), app.beat()
        async with both[0], both[1]:
            await wait_until(lambda: kit.count() >= 2, "two runs")
            await wait_until(lambda: sum(each.is_live for each in both) == 1, "one is live, and the other waits")
            first, second = sorted(both, key=lambda each: not each.is_live)
            await first.stop()
            await wait_until(lambda: second.is_live, "the second is live")
            count = kit.count()
            await wait_until(lambda: kit.count() > count + 2, "three more runs")

    dues = sorted(kit.dues())
    assert steps_between(dues) == {timedelta(seconds=0.1)}


async def test_one_that_waits_makes_one_request_a_lease_and_no_other(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.backends.sqlite.bus.SAFETY_INTERVAL", 3600.0)  # a slow machine would come to that
    permit = Permit(("beat", 0), "beat proj", 1, 0.0)
    async with kit.app() as app:
        await (await core_of(app).connection()).ledger.acquire_permits([permit], "another one", 600.0)
        waiting = app if kit.url.startswith("memory") else kit.app(every(60.0), worker_lease=0.3)
        asked: list[tuple[str, float]] = []
        holders: list[int] = []  # of connections: that of the app which declares has requests of its own

        def counted(kind: type[Any], name: str) -> None:
            original = getattr(kind, name)

            async def counting(self: Any, *given: Any, **named: Any) -> Any:
                if id(self) not in holders:
                    asked.append((name, asyncio.get_running_loop().time()))
                return await original(self, *given, **named)

            monkeypatch.setattr(kind, name, counting)

        async with waiting, waiting.beat(name="waiting") as scheduler:
            ledger = (await core_of(waiting).connection()).ledger
            if waiting is not app:
                declaring: Any = (await core_of(app).connection()).ledger
                lane = getattr(getattr(declaring, "client", None), "requests", None)
                holders += [id(getattr(declaring, name, None)) for name in ("_client", "database")] + [id(lane)]
            requests = [
                (RedisClient, "run"),
                (RedisClient, "ask"),
                (Database, "write"),
                (Database, "read"),
                (Lane, "run"),
                (Lane, "rows"),
            ]
            for kind, name in requests if waiting is not app else [(type(ledger), "acquire_permits")]:
                counted(kind, name)
            await wait_until(lambda: len(asked) >= 4, "it asked four times", timeout=20)
            assert not scheduler.is_live
            found = asked[:]  # leaving makes one more

    lease = core_of(waiting).conf.worker_lease
    assert len({name for name, _ in found}) == 1
    assert min(later - sooner for (_, sooner), (_, later) in pairwise(found)) >= 0.95 * lease


async def test_a_workflow_is_sent_once_by_three_schedulers(kit: Kit) -> None:
    def declare(app: AioTQ) -> None:
        note = app.tasks["proj.note"]
        flow = group(note.si("a"), chain(note.si("b"), note.si("c"))) | note.si("end")
        app.add_periodic_task(0.2, flow, name="flow", misfire="all", expires=None)

    apps = [kit.app(declare) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(running(app))
        await wait_until(lambda: kit.count("end") >= 5, "five runs")
        shown = await apps[0].schedules.get("flow")

    assert shown.last_id is not None
    for mark in ("a", "b", "c", "end"):
        assert Counter(kit.dues(mark)).most_common(1)[0][1] == 1
    assert set(kit.dues("end")) <= set(kit.dues("a")) & set(kit.dues("c"))


async def test_what_was_missed_is_sent_as_the_policy_says(kit: Kit) -> None:
    def declare(app: AioTQ) -> None:
        for misfire in ("all", "once"):
            every(0.2, misfire, misfire=misfire)(app)

    app = kit.app(declare)
    async with running(app):
        await wait_until(lambda: kit.count("all") and kit.count("once"), "both ran")
    await asyncio.sleep(1.0)  # nobody schedules
    async with running(app):
        await wait_until(lambda: kit.count("all") > 6, "what was missed ran")
        shown = {each.name: each for each in await app.schedules.list()}

    assert shown["each-all"].skipped == {}
    assert shown["each-once"].skipped["superseded"] >= 2
    assert shown["each-once"].skipped_why == "superseded"


class ShiftedClock(SystemClock):
    """A machine's clock that somebody sets."""

    def __init__(self) -> None:
        self.shift = 0.0

    def time(self) -> float:
        return super().time() + self.shift


async def test_a_clock_that_jumps_forward_and_back_doubles_and_loses_nothing(kit: Kit) -> None:
    """A server's clock counts. Where there is none, what a jump skips is late, and what comes again was sent."""

    def declare(app: AioTQ) -> None:
        for misfire in ("all", "once"):
            every(0.1, misfire, misfire=misfire)(app)

    clock = ShiftedClock()
    app = kit.app(declare, clock=clock)
    async with running(app):
        for shift in (0.0, 1.5, -1.0, 900.0, 0.0):
            clock.shift, count = shift, kit.count("all")
            await wait_until(partial(lambda least: kit.count("all") > least, count + 3), "runs go on", timeout=10)
            if kit.url.startswith(SERVERS_CLOCK):
                assert max(kit.dues("all")) < datetime.now(UTC) + timedelta(seconds=0.5), "nothing is early"
            elif shift == 900.0:
                break  # back again, nothing would be due for that long
        shown = {each.name: each for each in await app.schedules.list()}

    dues = sorted(kit.dues("all"))
    assert steps_between(dues) == {timedelta(seconds=0.1)}
    assert shown["each-all"].skipped == {}
    assert Counter(kit.dues("once")).most_common(1)[0][1] == 1
    if not kit.url.startswith(SERVERS_CLOCK):
        assert shown["each-once"].skipped["superseded"] > 100


async def test_a_clock_that_is_an_hour_off_on_one_of_three_machines_changes_nothing(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """On Redis the server's clock counts. Elsewhere all of them are on one machine."""
    shifts = (-3600.0, 0.0, 3600.0) if kit.url.startswith(SERVERS_CLOCK) else (0.0, 0.0, 0.0)
    async with AsyncExitStack() as stack:
        schedulers: list[Scheduler] = []
        for shift in shifts:
            clock = ShiftedClock()
            clock.shift = shift
            app = await stack.enter_async_context(kit.app(every(0.1, misfire="all"), clock=clock, worker_lease=0.4))
            schedulers.append(await stack.enter_async_context(app.beat(name=f"off by {shift:g}")))
        worker = kit.app(every(0.1, misfire="all"))
        await stack.enter_async_context(worker)
        await stack.enter_async_context(worker.worker())
        for _ in range(3):  # each of them is the live one, one after the other
            count = kit.count()
            await wait_until(partial(lambda least: kit.count() > least, count + 2), "one sends")
            # One that was late for its lease learns only then that another has taken over.
            await wait_until(lambda: sum(each.is_live for each in schedulers) == 1, "one is live")
            (live,) = (each for each in schedulers if each.is_live)
            schedulers.remove(live)
            await live.stop()
        # Runs overlap: one that was sent last may have ended before another.
        await wait_until(lambda: steps_between(kit.dues()) == {timedelta(seconds=0.1)}, "each occurrence ran once")

    dues = kit.dues()
    assert abs(max(dues) - datetime.now(UTC)) < timedelta(seconds=20)
    assert sum("off that of the ledger" in line for line in caplog.messages) == sum(map(bool, shifts))


async def test_an_entry_that_raises_does_not_stop_the_others(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def next(self, after: datetime, zone: Any) -> datetime:
            raise RuntimeError("never again")

    class Past:
        def next(self, after: datetime, zone: Any) -> datetime:
            return after - timedelta(days=1)

    def declare(app: AioTQ) -> None:
        note = app.tasks["proj.note"]
        app.add_periodic_task(Broken(), note.s("broken"), name="broken one")
        app.add_periodic_task(Past(), note.s("past"), name="past one")
        every(0.05)(app)

    with caplog.at_level(logging.ERROR, "aiotq.beat"):
        async with running(kit.app(declare)):
            await wait_until(lambda: kit.count() >= 2, "the other one runs")

    said = [record.getMessage() for record in caplog.records]
    assert any("broken one" in line and "never again" in line for line in said)
    assert any("past one" in line and "is not after" in line for line in said)
    assert len(said) == 2


async def test_a_schedule_that_never_comes_again_is_shown_as_such_and_the_others_go_on(kit: Kit) -> None:
    class Never:
        def next(self, after: datetime, zone: Any) -> None:
            return None

    def declare(app: AioTQ) -> None:
        note = app.tasks["proj.note"]
        app.add_periodic_task(Never(), note.s("never"), name="never")
        app.add_periodic_task(once(datetime(2001, 1, 1, tzinfo=UTC)), note.s("past"), name="past")
        every(0.05)(app)

    app = kit.app(declare)
    async with running(app):
        await wait_until(lambda: kit.count() >= 2, "the other one runs")
        shown = {each.name: (each.next_due, each.problem) for each in await app.schedules.list()}

    assert shown["never"] == shown["past"] == (None, None)
    assert {mark for mark, _ in kit.seen} == {"x"}


async def test_a_thousand_that_are_due_in_the_same_second_are_each_sent_once(kit: Kit) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)

    def declare(app: AioTQ) -> None:
        for number in range(1000):
            app.add_periodic_task(once(moment), app.tasks["proj.note"].s(f"{number}"), name=f"entry {number}")

    sent: Counter[str] = Counter()

    def hear(sender: object, headers: dict[str, Any], **_: Any) -> None:
        sent[headers["periodic_task_name"]] += 1

    signals.after_task_publish.connect(hear)
    try:
        async with kit.app(declare) as app, app.beat(), app.beat():
            await wait_until(lambda: len(sent) == 1000, "all were sent", timeout=20)
            assert [each.ready for each in await app.admin.queues()] == [1000]
            assert {each.runs for each in await app.schedules.list()} == {1}
    finally:
        signals.after_task_publish.disconnect(hear)
    assert set(sent.values()) == {1}


async def test_an_entry_whose_task_is_gone_is_told_of_and_the_others_go_on(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    before = kit.app()

    @before.task(name="proj.gone")
    async def gone() -> None: ...

    async with before:
        await before.schedules.add(0.05, gone.s(), name="orphan")

    with caplog.at_level(logging.ERROR, "aiotq.beat"):
        async with running(kit.app(every(0.05))):
            await wait_until(lambda: kit.count() >= 2, "the other one runs")

    assert any("orphan" in line and "proj.gone" in line for line in caplog.messages)


async def test_a_damaged_row_is_told_of_and_can_be_removed(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    app = kit.app(every(0.05))
    async with app:
        ledger = (await core_of(app).connection()).ledger
        for name, body in (("empty", b""), ("junk", b"{}\nx"), ("half", b'{"last": "2026-01-01T00:00:00+00:00"}\n')):
            await ledger.change_schedules([ScheduleChange("proj", name, "", "1", body, tells=True)])
        with caplog.at_level(logging.ERROR, "aiotq.beat"):
            async with running(app):
                await wait_until(lambda: kit.count() >= 2, "the other one runs")

        shown = {each.name: each for each in await app.schedules.list()}
        assert all("can't be read" in str(shown[name].problem) for name in ("empty", "junk", "half"))
        for name in ("empty", "junk", "half"):
            assert any(name in line for line in caplog.messages)
            await app.schedules.remove(name)
        assert [each.name for each in await app.schedules.list()] == ["each-x"]


async def test_entries_of_code_are_added_changed_and_removed_when_a_scheduler_starts(kit: Kit) -> None:
    async def after(declare: Declare) -> dict[str, Any]:
        app = kit.app(declare)
        async with app, app.beat() as scheduler:
            await wait_until(lambda: scheduler.is_live, "it is live")
            rows = await (await core_of(app).connection()).ledger.schedules("proj")
            return {row.name: each for row in rows for each in [await app.schedules.get(row.name)]}

    def two(app: AioTQ) -> None:
        every(100, "a")(app)
        every(100, "b")(app)

    assert {name: each.shown for name, each in (await after(two)).items()} == {
        "each-a": "interval(100)",
        "each-b": "interval(100)",
    }
    assert {name: each.shown for name, each in (await after(every(200, "a"))).items()} == {"each-a": "interval(200)"}


async def test_at_run_time_one_is_added_changed_paused_resumed_and_removed(kit: Kit) -> None:
    app = kit.app()
    note: Any = app.tasks["proj.note"]
    async with running(app) as (scheduler,):
        await wait_until(lambda: scheduler.is_live, "it is live")

        added = await app.schedules.add(0.05, note.s("r"), name="run time")
        assert (added.source, added.next_due is not None) == ("runtime", True)
        await wait_until(lambda: kit.count("r") >= 2, "it runs")

        await app.schedules.update("run time", args=["changed"])
        await wait_until(lambda: kit.count("changed") >= 2, "it runs with other arguments")

        await app.schedules.pause("run time")
        assert (await app.schedules.get("run time")).next_due is None
        await app.schedules.update("run time", args=["after"], schedule=0.06)
        assert (await app.schedules.get("run time")).is_paused
        await app.schedules.resume("run time")
        await wait_until(lambda: kit.count("after") >= 2, "it runs again")

        shown = await app.schedules.get("run time")
        assert shown.runs >= 6
        assert shown.last_id is not None
        assert shown.shown == "interval(0.06)"

        await app.schedules.remove("run time")
        assert await app.schedules.list() == []
        with pytest.raises(ScheduleError, match="no periodic task's"):
            await app.schedules.get("run time")


async def test_entries_of_code_can_be_paused_and_fired_and_not_changed(kit: Kit) -> None:
    app = kit.app(every(3600))
    async with running(app) as (scheduler,):
        await wait_until(lambda: scheduler.is_live, "it is live")

        assert await (await app.schedules.fire("each-x")) == "x"
        assert [(mark, due is not None) for mark, due in kit.seen] == [("x", True)]
        for change in (app.schedules.update("each-x", args=["y"]), app.schedules.remove("each-x")):
            with pytest.raises(ScheduleError, match="in code"):
                await change
        await app.schedules.pause("each-x")

    async with kit.app(every(3600)) as again, again.beat() as scheduler:
        await wait_until(lambda: scheduler.is_live, "it is live")
        assert (await again.schedules.get("each-x")).is_paused, "a pause outlives the scheduler"


async def test_two_of_one_name_at_run_time_are_an_error(kit: Kit) -> None:
    app = kit.app(every(3600))
    note: Any = app.tasks["proj.note"]
    async with app:
        await app.schedules.add(60, note.s(), name="one")
        for name in ("one", "each-x"):
            with pytest.raises(ScheduleError, match=name):
                await app.schedules.add(60, note.s(), name=name)


async def test_a_run_that_goes_on_has_the_next_ones_skipped(kit: Kit) -> None:
    def declare(app: AioTQ) -> None:
        call = app.tasks["proj.note"].s("long", seconds=0.6)
        app.add_periodic_task(0.1, call, name="long", overlap="skip")

    app = kit.app(declare)
    async with running(app):

        async def are_skipped() -> bool:
            return (await app.schedules.get("long")).skipped.get("overlap", 0) >= 4

        await wait_until(lambda: kit.count("long") >= 2, "two runs")
        await wait_until(are_skipped, "those beside them are skipped")

    first, second = kit.dues("long")[:2]
    assert second - first >= timedelta(seconds=0.6)


async def test_a_run_that_goes_on_has_the_next_ones_wait(kit: Kit) -> None:
    def declare(app: AioTQ) -> None:
        call = app.tasks["proj.note"].s("long", seconds=0.3)
        app.add_periodic_task(0.2, call, name="long", overlap="queue", misfire="all", expires=None, max_runs=3)

    app = kit.app(declare)
    async with running(app):
        await wait_until(lambda: kit.count("long") == 3, "three runs")
        shown = await app.schedules.get("long")

    dues = kit.dues("long")
    assert [later - sooner for sooner, later in pairwise(dues)] == [timedelta(seconds=0.2)] * 2
    assert (shown.runs, shown.next_due) == (3, None)


async def test_signals_tell_of_schedulers(kit: Kit) -> None:
    told: list[object] = []

    def hear(sender: object, **_: Any) -> None:
        told.append(sender)

    signals.beat_embedded_init.connect(hear)
    try:
        async with kit.app() as app, app.beat() as scheduler:
            assert told == [scheduler]
    finally:
        signals.beat_embedded_init.disconnect(hear)


async def test_the_setting_is_read_as_celery_documents_it(kit: Kit) -> None:
    app = kit.app(
        beat_schedule={
            "a": {"task": "proj.note", "schedule": 30.0, "args": ("a",), "options": {"queue": "hi", "expires": 5}},
            "b": {"task": "proj.note", "schedule": timedelta(hours=1), "kwargs": {"mark": "b"}, "relative": True},
            "c": {"task": "proj.note", "schedule": crontab(hour=7)},
        }
    )
    async with app:
        shown = {each.name: each for each in await app.schedules.list()}

    assert (shown["a"].args, shown["a"].options, shown["a"].policy.expires) == (("a",), {"queue": "hi"}, 5.0)
    assert shown["b"].schedule == interval(timedelta(hours=1), aligned=True)
    assert shown["c"].schedule == crontab(hour=7)


async def test_the_next_occurrences_are_shown_in_their_time_zones(kit: Kit) -> None:
    def declare(app: AioTQ) -> None:
        note = app.tasks["proj.note"]
        app.add_periodic_task(crontab(hour=7, minute=0), note.s(), name="berlin", timezone="Europe/Berlin")
        app.add_periodic_task(crontab(hour=7, minute=0), note.s(), name="utc")

    async with kit.app(declare) as app:
        found = await app.schedules.next(4)

    assert Counter(task.name for _, task in found) == {"berlin": 2, "utc": 2}
    assert [due for due, _ in found] == sorted(due for due, _ in found)
    assert {due.hour for due, _ in found} == {7}
    assert found[0][0] > datetime.now(UTC)
