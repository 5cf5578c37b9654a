"""Periodic tasks as they are declared: wrong ones are errors that name them; a test's clock sends them."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest

from aiotq import AioTQ, Middleware, chain, crontab, group, interval, signals
from aiotq.beat.declared import declared
from aiotq.beat.entries import Entry
from aiotq.beat.occurrences import occurrence_id, policy
from aiotq.beat.rows import State, body_of, definition_of, read_row
from aiotq.core.inside import core_of
from aiotq.exceptions import NotRegistered, ScheduleError
from aiotq.results import ScheduleRow
from aiotq.testing import TestWorker

from ..waiting import wait_until

SUNDAY = datetime(2026, 3, 29, tzinfo=UTC)


def make(**settings: Any) -> AioTQ:
    app = AioTQ("proj", broker="memory://", **settings)

    @app.task(name="proj.add")
    async def add(x: int, y: int = 0) -> int:
        return x + y

    return app


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "often"}, "schedule='often' is not a number of seconds"),
        ({"schedule": 0}, "every=0"),
        ({"schedule": None}, "has no schedule"),
        ({"task": None}, "has no task"),
        ({"task": 7}, "task=7 is not the name of a task"),
        ({"args": "ab"}, "args='ab' is not a list or tuple"),
        ({"kwargs": [1]}, "kwargs=[1] is not a mapping"),
        ({"options": [1]}, "options=[1] is not a mapping"),
        ({"options": {"priority": 77}}, "priority must be"),
        ({"options": {"task_id": "a"}}, "task_id='a' is not an option"),
        ({"options": {"link": 1}}, "link=1 is not an option"),
        ({"misfire": "never"}, "misfire='never'"),
        ({"overlap": "maybe"}, "overlap='maybe' is not one of allow, skip, queue"),
        ({"timezone": "Mars/Base"}, "timezone='Mars/Base' is not a zone"),
        ({"max_runs": 0}, "max_runs=0"),
        ({"cron": "* * * * *"}, "unknown keys: cron"),
        ({"schedule": crontab("@daily"), "relative": True}, "relative=True is for intervals"),
    ],
)
def test_a_wrong_entry_of_the_setting_is_an_error_with_its_name(given: dict[str, Any], said: str) -> None:
    entry = {"task": "proj.add", "schedule": 60, **given}

    with pytest.raises(ScheduleError, match=re.escape(said)) as caught:
        make(beat_schedule={"tidy up": entry})

    assert "periodic task 'tidy up'" in str(caught.value)


@pytest.mark.parametrize("given", [7, ["a"], {"a": 7}, {7: {"task": "t", "schedule": 1}}, {"a\nb": {}}])
def test_a_setting_that_is_no_mapping_of_entries_is_an_error(given: Any) -> None:
    with pytest.raises(ScheduleError):
        make(beat_schedule=given)


def test_the_setting_can_not_be_changed_in_place_unchecked() -> None:
    app = make()

    with pytest.raises(TypeError):
        app.conf.beat_schedule["a"] = {}


def test_a_periodic_task_is_called_by_its_call_unless_it_has_a_name() -> None:
    app = make()
    add: Any = app.tasks["proj.add"]

    assert app.add_periodic_task(60, add.s(1), (), {"y": 2}) == "proj.add(1, y=2)"
    assert app.add_periodic_task(60, add.si(1), name="mine") == "mine"
    assert core_of(app).periodic["mine"] == Entry("mine", interval(60), "proj.add", (1,))


def test_two_of_one_name_are_an_error_unless_they_are_the_same() -> None:
    app = make()
    add: Any = app.tasks["proj.add"]
    for _ in range(2):
        app.add_periodic_task(crontab(minute=0, hour=7), add.s(1))

    with pytest.raises(ScheduleError, match="another periodic task"):
        app.add_periodic_task(crontab(minute=0, hour=19), add.s(1))


def test_arguments_that_do_not_fit_are_an_error_where_they_are_said() -> None:
    app = make()
    add: Any = app.tasks["proj.add"]

    with pytest.raises(ScheduleError, match=r"periodic task 'mine'.*can't be called so"):
        app.add_periodic_task(60, add.s(), name="mine")
    with pytest.raises(ScheduleError, match="is not a signature"):
        app.add_periodic_task(60, cast(Any, "proj.add"))
    with pytest.raises(ScheduleError, match="is not a task"):
        app.periodic(60)(cast(Any, print))


async def test_a_task_that_is_not_registered_is_an_error_when_a_scheduler_starts() -> None:
    app = make(beat_schedule={"tidy up": {"task": "proj.ad", "schedule": 60}})

    with pytest.raises(ScheduleError, match=r"'tidy up'.*no task is registered as 'proj.ad'.*did you mean") as caught:
        async with app.beat():
            pass

    assert isinstance(caught.value.__cause__, NotRegistered)


async def test_an_overlap_needs_results() -> None:
    app = make(task_ignore_result=True)
    add: Any = app.tasks["proj.add"]
    app.add_periodic_task(60, add.s(1), name="mine", overlap="skip")

    with pytest.raises(ScheduleError, match="overlap='skip' needs the result"):
        await declared(core_of(app))


async def test_what_is_said_when_the_app_is_configured_is_read_once_and_errors_go_up() -> None:
    app = make()
    told: list[str] = []

    @app.on_after_configure.connect(weak=False)
    def setup(sender: AioTQ, **_: Any) -> None:
        told.append("configured")
        sender.add_periodic_task(60, sender.signature("proj.add", (1,)), name="mine")

    @app.on_after_finalize.connect(weak=False)
    async def later(sender: AioTQ, **_: Any) -> None:
        told.append("finalized")

    for _ in range(2):
        assert list(await declared(core_of(app))) == ["mine"]
    assert told == ["configured", "finalized"]

    broken = make()

    @broken.on_after_configure.connect(weak=False)
    def wrong(sender: AioTQ, **_: Any) -> None:
        sender.add_periodic_task(-1, sender.signature("proj.add", (1,)), name="mine")

    with pytest.raises(ScheduleError, match="periodic task 'mine'"):
        await declared(core_of(broken))


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda add: chain(add.s(1), add.s(1, 2, 3)), r"proj.add.*too many positional"),
        (
            lambda add: chain(add.s(1), add.s(1).set(task_id="mine")),
            r"task_id='mine' of proj.add\(1\) would be that of every",
        ),
        (lambda add: group(add.s(1).set(eta=SUNDAY)), r"eta=.* would be that of every run"),
        (lambda add: group(), "calls nothing"),
        (lambda add: group(add.s(1), add.s(2)) | add.s(3, 4), r"proj.add.*too many positional"),
    ],
)
def test_a_workflow_that_can_not_be_sent_is_an_error_with_its_name(make_it: Any, said: str) -> None:
    app = make()

    with pytest.raises(ScheduleError, match=said) as caught:
        app.add_periodic_task(60, make_it(app.tasks["proj.add"]), name="flow")

    assert "periodic task 'flow'" in str(caught.value)


async def test_a_workflow_with_a_task_that_is_not_registered_is_an_error_when_a_scheduler_starts() -> None:
    app = make()
    app.add_periodic_task(60, chain(app.tasks["proj.add"].s(1), app.signature("proj.ad")), name="flow")

    with pytest.raises(ScheduleError, match=r"'flow'.*no task is registered as 'proj.ad'"):
        await declared(core_of(app))


class TestWorkflows:
    """A periodic task may be any signature, as in Celery."""

    @pytest.fixture
    def app(self) -> AioTQ:
        app = make()

        @app.task(name="proj.total", bind=True)
        async def total(self: Any, values: list[int]) -> tuple[int, str, datetime]:
            return sum(values), self.request.periodic.entry, self.request.periodic.due

        @app.task(name="proj.failed")
        async def failed(task_id: str) -> str:
            return task_id

        return app

    async def test_a_chain_is_sent_and_each_of_its_tasks_knows_the_occurrence(self, app: AioTQ) -> None:
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(60, chain(add.s(1), add.s(2), add.s(3)), name="flow", queue="first")
        async with TestWorker(app, now=SUNDAY, queues=["default", "first"]) as t:
            await t.advance(minutes=2)

            assert [ran.value for ran in t.ran] == [1, 3, 6] * 2
            assert [each.queue for each in t.sent] == ["first", "default", "default"] * 2
            assert {each.headers["periodic_task_name"] for each in t.sent} == {"flow"}
            shown = await app.schedules.get("flow")
            assert (shown.runs, shown.last_id, shown.last_state) == (2, t.ran[-1].id, "SUCCESS")
            assert (shown.task, shown.workflow) == ("proj.add", "proj.add(1) | proj.add(2) | proj.add(3)")

    async def test_a_chord_and_a_group_are_sent(self, app: AioTQ) -> None:
        add, total = cast(Any, app.tasks["proj.add"]), cast(Any, app.tasks["proj.total"])
        app.add_periodic_task(60, group(add.s(1), add.s(2), chain(add.s(3), add.s(4))) | total.s(), name="chord")
        app.add_periodic_task(90, group(add.s(10), add.s(20)), name="group", misfire="all")
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(minutes=2)

            found = [ran.value for ran in t.ran if ran.task == "proj.total"]
            assert found == [(10, "chord", SUNDAY + timedelta(minutes=n)) for n in (1, 2)]
            assert await app.AsyncResult((await app.schedules.get("group")).last_id or "") == [10, 20]

    async def test_ids_are_made_of_entry_and_due_time(self, app: AioTQ) -> None:
        add, total = cast(Any, app.tasks["proj.add"]), cast(Any, app.tasks["proj.total"])
        app.add_periodic_task(60, group(add.s(1), add.s(2)) | total.s(), name="chord")
        ids: list[set[str]] = []
        for _ in range(2):
            async with TestWorker(app, now=SUNDAY) as t:
                await t.advance(minutes=1)
                ids.append({each.id for each in t.sent})

        assert ids[0] == ids[1]
        assert occurrence_id("proj\nchord", SUNDAY + timedelta(minutes=1)) in ids[0]

    async def test_jitter_expiry_and_countdown_count_for_its_first_message(self, app: AioTQ) -> None:
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(60, chain(add.s(1), add.s(2)), name="flow", countdown=10, queue="nobody takes it")
        async with TestWorker(app, now=SUNDAY, queues=["default"]) as t:
            await t.advance(minutes=1)

            (sent,) = t.sent
            assert (sent.due, sent.expires) == (SUNDAY + timedelta(seconds=70), SUNDAY + timedelta(seconds=120))

    async def test_callbacks_of_a_call_and_calls_of_many_items_are_sent(self, app: AioTQ) -> None:
        add, total, failed = (cast(Any, app.tasks[f"proj.{name}"]) for name in ("add", "total", "failed"))
        app.add_periodic_task(60, add.s("a", 1).on_error(failed.s()), name="fails")
        app.add_periodic_task(60, add.s(1, 1).set(link=add.s(5)), name="linked")
        app.add_periodic_task(60, total.map([[1, 2], [3]]), name="mapped")
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(minutes=1)

            t.assert_ran(failed, value=(await app.schedules.get("fails")).last_id, times=1)
            t.assert_ran(add, value=7, times=1)
            mapped = await app.AsyncResult((await app.schedules.get("mapped")).last_id or "")
            assert [value for value, *_ in mapped] == [3, 3]

    async def test_the_next_waits_for_the_whole_workflow(self, app: AioTQ) -> None:
        add: Any = app.tasks["proj.add"]
        slow = chain(add.s(1), add.s(2).set(countdown=150))
        app.add_periodic_task(60, slow, name="slow", overlap="skip", expires=None)
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(minutes=5)

            shown = await app.schedules.get("slow")
            assert shown.skipped == {"overlap": 3}
            t.assert_ran(add, value=3, times=1)

    async def test_one_is_added_changed_and_fired_at_run_time(self, app: AioTQ) -> None:
        add: Any = app.tasks["proj.add"]
        async with TestWorker(app, now=SUNDAY) as t:
            added = await app.schedules.add(60, chain(add.s(1), add.s(2)), name="flow", queue="default")
            await app.schedules.update("flow", schedule=30, priority=7)
            with pytest.raises(ScheduleError, match="its arguments are changed by adding it anew"):
                await app.schedules.update("flow", args=[1])
            result = await app.schedules.fire("flow")
            await t.advance(minutes=1)

            assert added.workflow is not None
            t.assert_sent(add, priority=7, times=3)
            assert await result == 3

    async def test_middleware_sees_the_call_that_starts_it_and_may_not_keep_it_back(self, app: AioTQ) -> None:
        add: Any = app.tasks["proj.add"]
        seen: list[str] = []

        class Marking(Middleware):
            async def send(self, calls: Any, forward: Any) -> Any:
                seen.extend(call.task for call in calls)
                return await forward([call.with_headers(marked="yes") for call in calls])

        app.add_middleware(Marking())
        app.add_periodic_task(60, chain(add.s(1), add.s(2)), name="flow")
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(minutes=1)

            assert seen == ["proj.add"]
            assert [each.headers.get("marked") for each in t.sent] == ["yes", None]
            assert t.ran[-1].value == 3


class TestConfigured:
    """`on_after_configure` and `on_after_finalize` are sent in each process that uses the app, before it is used."""

    def make(self, told: list[str], *, calls: bool = False) -> AioTQ:
        app = make()

        @app.on_after_configure.connect(weak=False)
        def setup(sender: AioTQ, source: Any, **_: Any) -> None:
            told.append("configured")
            assert source is sender.conf
            sender.conf.task_default_queue = "mine"
            sender.conf.beat_schedule = {"by setting": {"task": "proj.add", "schedule": 60, "args": (1,)}}
            sender.add_periodic_task(60, sender.tasks["proj.add"].s(2), name="by call")

        @app.on_after_finalize.connect(weak=False)
        async def later(sender: AioTQ, **_: Any) -> None:
            told.append("finalized")
            if calls:
                await sender.tasks["proj.add"].delay(0)

        return app

    async def test_a_call_is_made_as_the_settings_are_after_it(self) -> None:
        told: list[str] = []
        app = self.make(told, calls=True)
        async with app:
            await app.tasks["proj.add"].delay(1)

            assert [(each.name, each.ready) for each in await app.admin.queues()] == [("mine", 2)]
        assert told == ["configured", "finalized"]

    async def test_a_worker_a_scheduler_and_whoever_lists_see_the_same_entries(self) -> None:
        for use in ("worker", "beat", "list", "next", "fire"):
            told: list[str] = []
            app = self.make(told)
            async with app, AsyncExitStack() as stack:
                if use == "worker":
                    await stack.enter_async_context(app.worker())
                    assert told == ["configured", "finalized"]
                elif use == "beat":
                    scheduler = await stack.enter_async_context(app.beat())
                    await wait_until(partial(getattr, scheduler, "is_live"), "it is live")
                elif use == "fire":
                    assert (await app.schedules.fire("by setting")).id
                elif use == "next":
                    assert len(await app.schedules.next(2)) == 2
                assert [each.name for each in await app.schedules.list()] == ["by call", "by setting"]
                assert told == ["configured", "finalized"]

    async def test_a_worker_of_a_test_sends_them(self) -> None:
        told: list[str] = []
        app = self.make(told)
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(minutes=1)

            assert sorted(ran.args for ran in t.ran) == [(1,), (2,)]
        assert told == ["configured", "finalized"]

    async def test_what_a_receiver_raises_goes_to_each_that_uses_the_app(self) -> None:
        app = make()

        @app.on_after_configure.connect(weak=False)
        def wrong(sender: AioTQ, **_: Any) -> None:
            sender.add_periodic_task(-1, sender.signature("proj.add", (1,)), name="mine")

        for _ in range(2):
            with pytest.raises(ScheduleError, match="periodic task 'mine'"):
                await app.tasks["proj.add"].delay(1)
        with pytest.raises(ScheduleError, match="periodic task 'mine'"):
            await app.schedules.list()


def test_ids_differ_between_apps() -> None:
    assert occurrence_id("a\nx", SUNDAY) != occurrence_id("b\nx", SUNDAY)


class TestRows:
    ENTRY = Entry(
        "mine",
        crontab("30 7 * * mon-fri"),
        "proj.add",
        (1, datetime(2026, 1, 1, tzinfo=UTC)),
        {"y": {1, 2}},
        {"queue": "hi"},
        policy(misfire=60, ends=SUNDAY, expires=None),
        "skip",
        "Europe/Berlin",
        "runtime",
    )
    STATE = State(
        SUNDAY, 7, True, SUNDAY - timedelta(hours=1), "id", SUNDAY, {"missed": 3, "overlap": 1}, SUNDAY, "overlap"
    )

    def row(self, app: AioTQ, body: bytes | None = None) -> ScheduleRow:
        found = body_of(definition_of(core_of(app), self.ENTRY), self.STATE) if body is None else body
        return ScheduleRow("mine", "1", found)

    def test_an_entry_and_its_progress_come_back_as_they_were(self) -> None:
        app = make()

        kept = read_row(core_of(app), self.row(app))

        assert (kept.entry, kept.state) == (self.ENTRY, self.STATE)

    def test_what_is_not_signed_is_not_believed_where_messages_are(self) -> None:
        plain, signing, other = make(), *(make(security_key=each * 16) for each in "ab")

        assert read_row(core_of(signing), self.row(signing)).entry == self.ENTRY
        for forged in (plain, other):
            with pytest.raises(ScheduleError, match="mine"):
                read_row(core_of(signing), self.row(forged))

    def test_a_signed_row_can_not_be_put_under_another_name(self) -> None:
        app = make(security_key="a" * 16)

        with pytest.raises(ScheduleError, match="it is that of 'mine'"):
            read_row(core_of(app), ScheduleRow("yours", "1", self.row(app).body))

    def test_what_is_damaged_anywhere_is_an_error_of_ours_and_nothing_else(self) -> None:
        app = make()
        whole = self.row(app).body
        for place in range(0, len(whole), 3):
            for body in (
                whole[:place],
                whole[:place] + b"\x00" + whole[place + 1 :],
                whole[:place] + whole[place + 2 :],
            ):
                with suppress(ScheduleError):
                    read_row(core_of(app), self.row(app, body))


class TestTheTestWorker:
    async def test_time_that_passes_sends_what_is_due(self) -> None:
        app = make(timezone="Europe/Berlin")
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(crontab(hour=7, minute=0), add.s(7), name="at seven")
        app.add_periodic_task(interval(86_400), add.s(1), name="daily")

        async with TestWorker(app, now=SUNDAY - timedelta(days=1, hours=1)) as t:
            await t.advance(days=3)

            t.assert_ran(add, args=(1,), times=3)
            assert [ran.at.hour for ran in t.ran if ran.args == (7,)] == [6, 5, 5]

    async def test_what_is_added_on_the_way_is_sent_and_what_is_paused_is_not(self) -> None:
        app = make()
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(60, add.s(1), name="minutely")
        async with TestWorker(app, now=SUNDAY) as t:
            await app.schedules.pause("minutely")
            await app.schedules.add(30, add.s(2), name="twice")

            await t.advance(minutes=5)

            t.assert_not_ran(add, args=(1,))
            t.assert_ran(add, args=(2,), times=10)

    async def test_options_go_with_each_call(self) -> None:
        app = make()
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(
            3600, add.s(1).set(headers={"mine": "1"}), name="hourly", priority=8, countdown=30, max_runs=2
        )
        async with TestWorker(app, now=SUNDAY) as t:
            await t.advance(hours=5)

            sent = t.assert_sent(add, priority=8, times=2)
            assert sent.headers["mine"] == "1"
            assert sent.headers["periodic_task_name"] == "hourly"
            assert (await app.schedules.get("hourly")).next_due is None
            assert [ran.at - SUNDAY for ran in t.ran] == [timedelta(hours=n, seconds=30) for n in (1, 2)]

    async def test_an_occurrence_that_was_not_started_expires_when_the_next_is_due(self) -> None:
        app = make()
        add: Any = app.tasks["proj.add"]
        app.add_periodic_task(60, add.s(1), name="minutely", queue="nobody takes it")
        async with TestWorker(app, now=SUNDAY, queues=["default"]) as t:
            await t.advance(minutes=2)

            assert [each.expires for each in t.sent] == [SUNDAY + timedelta(minutes=n) for n in (2, 3)]

    async def test_middleware_and_signals_see_what_is_sent(self) -> None:
        app = make()
        add: Any = app.tasks["proj.add"]
        heard: list[str] = []

        class Marking(Middleware):
            async def send(self, calls: Any, forward: Any) -> Any:
                return await forward([call.with_headers(marked="yes") for call in calls])

        def before(sender: str, headers: dict[str, Any], **_: Any) -> None:
            heard.append(f"before {headers['periodic_task_name']}")

        def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
            heard.append(f"after {headers['marked']}")

        app.add_middleware(Marking())
        app.add_periodic_task(60, add.s(1), name="minutely")
        signals.before_task_publish.connect(before)
        signals.after_task_publish.connect(after)
        try:
            async with TestWorker(app, now=SUNDAY) as t:
                await t.advance(minutes=1)
                t.assert_sent(add, headers={**t.sent[0].headers, "marked": "yes"}, times=1)
        finally:
            signals.before_task_publish.disconnect(before)
            signals.after_task_publish.disconnect(after)
        assert heard == ["before minutely", "after yes"]
