"""Who the workers are, what they say of themselves, and what they do when they are told to; on every broker."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import tracemalloc
from datetime import datetime
from typing import Any

import pytest

from aiotq import AioTQ, Worker
from aiotq.control.asking import registered
from aiotq.control.messages import ANSWERS, COMMANDS, STALE, Command, pack_answer, pack_command
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, InvalidOption
from aiotq.results.fleet import MISSING_KEPT, FleetTable
from aiotq.wire.message import new_id

from ..waiting import wait_until
from .conftest import MakeApp


async def test_workers_are_in_the_registry_while_they_run(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()

    @app.task
    async def add() -> None: ...

    assert list(await asker.control.fleet()) == []
    async with app, app.worker(queues=["a", "b"], name="one", concurrency=7), app.worker(name="two"):
        one, two = await asker.control.fleet()
        assert (one.name, two.name) == ("one", "two")
        assert one.queues == ("a", "b")
        assert add.name in one.tasks
        assert list(one.slots["loop"]) == [0, 7]
        assert not one.is_missing
        assert one.blocked is None
        assert abs(one.seen - time.time()) < 60
        assert one.started <= one.seen

    assert list(await asker.control.fleet()) == []


async def test_all_that_are_asked_answer_and_a_destination_chooses(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()
    async with app, app.worker(name="mail-1"), app.worker(name="mail-2"), app.worker(name="web"):
        began = time.monotonic()
        everybody = await asker.control.ping(timeout=20)
        mail = await asker.control.inspect(["mail-*"], timeout=20).ping()
        web = await asker.control.inspect("web", timeout=20).ping()
        nobody = await asker.control.ping(destination="other", timeout=20)

        assert dict(everybody) == {name: {"ok": "pong"} for name in ("mail-1", "mail-2", "web")}
        assert sorted(mail) == ["mail-1", "mail-2"]
        assert sorted(web) == ["web"]
        assert nobody == {}
        assert time.monotonic() - began < 15, "whoever asks does not wait for the timeout"
        assert everybody.silent == ()


async def test_what_runs_and_what_waits_is_told(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()
    release = asyncio.Event()

    @app.task
    async def waits(x: int, *, y: str) -> None:
        await release.wait()

    async with app, app.worker(name="one", concurrency=1, prefetch=1) as worker:
        first = await waits.delay(1, y="why")
        await wait_until(lambda: worker.running, "the first one runs")
        second = await waits.delay(2, y="not")
        inspect = asker.control.inspect(timeout=20)

        async def reserved() -> Any:
            return (await inspect.reserved())["one"]

        (waiting,) = await wait_until(reserved, "the second one waits in the worker")
        ((call,),) = (await inspect.active()).values()
        assert (call["id"], call["name"], call["args"], call["kwargs"]) == (
            first.id,
            waits.name,
            "(1,)",
            "{'y': 'why'}",
        )
        assert abs(call["time_start"] - time.time()) < 60
        assert waiting["id"] == second.id
        found = (await inspect.query_task(first.id, second.id, "other"))["one"]
        assert {task_id: state for task_id, (state, _) in found.items()} == {first.id: "active", second.id: "reserved"}
        assert "release.wait()" in (await inspect.stacks())["one"]["ok"]
        assert waits.name in (await inspect.registered())["one"]
        stats = (await inspect.stats())["one"]
        assert stats["pool"]["loop"] == {"running": 1, "max": 1}
        assert stats["total"] == {"tasks": 0}
        memory = (await inspect.memory())["one"]
        assert memory["rss"] > 1_000_000
        assert memory["running"] == 1
        assert "top" not in memory
        tracemalloc.start()
        try:
            traced = (await inspect.memory())["one"]
        finally:
            tracemalloc.stop()
        assert traced["traced"] > 0
        assert traced["top"][0].keys() == {"line", "size", "count"}
        assert [each["name"] for each in (await inspect.active_queues())["one"]] == ["default"]
        assert abs((await inspect.clock())["one"]["clock"] - time.time()) < 60
        release.set()
        await second.get(timeout=20)


async def test_settings_and_reports_have_no_secrets(make_app: MakeApp) -> None:
    app = make_app(security_key="k" * 40)
    async with app, app.worker(name="one"):
        inspect = app.control.inspect(timeout=20)
        conf, report = (await inspect.conf())["one"], (await inspect.report())["one"]["ok"]
        changed = (await inspect.conf(changed=True))["one"]

    assert conf["security_key"] == "**"
    assert "kkkk" not in report
    assert set(changed) < set(conf)
    assert changed["security_key"] == "**"


async def test_a_paused_worker_takes_nothing_until_it_is_resumed(app: AioTQ) -> None:
    @app.task
    async def add(x: int) -> int:
        return x + 1

    async with app, app.worker(name="one") as worker:
        assert await (await add.delay(1)).get(timeout=20) == 2
        assert (await app.control.pause(timeout=20))["one"] == {"ok": "paused"}
        (member,) = (await app.control.inspect(timeout=20).query("presence")).values()
        assert member["is_paused"]
        result = await add.delay(2)

        async def waits() -> bool:
            (queue,) = await app.admin.queues(["default"])
            return queue.ready == 1 and queue.leased == 0

        await wait_until(waits, "it waits in the broker")
        assert worker.running == 0

        await app.control.resume(timeout=20)
        assert await result.get(timeout=20) == 3


async def test_slots_grow_and_shrink(app: AioTQ) -> None:
    release = asyncio.Event()

    @app.task
    async def waits() -> None:
        await release.wait()

    async with app, app.worker(name="one", concurrency=1) as worker:
        results = [await waits.delay() for _ in range(3)]
        await wait_until(lambda: worker.running == 1, "one runs")
        assert (await app.control.pool_grow(2, timeout=20))["one"] == {"ok": "3 slots (loop)"}
        await wait_until(lambda: worker.running == 3, "three run")
        assert (await app.control.pool_shrink(2, timeout=20))["one"] == {"ok": "1 slots (loop)"}
        refused = await app.control.pool_shrink(timeout=20)
        assert "slots" in refused.failed["one"]
        release.set()
        for each in results:
            await each.get(timeout=20)


async def test_a_time_limit_holds_from_then_on(app: AioTQ) -> None:
    @app.task(time_limit=60)
    async def sleeps() -> None:
        await asyncio.sleep(60)

    async with app, app.worker(name="one"):
        assert not (await app.control.time_limit(sleeps.name, hard=0.1, timeout=20)).failed
        result = await sleeps.delay()
        with pytest.raises(Exception, match="hard time limit"):
            await result.get(timeout=20)
        wrong = await app.control.time_limit(sleeps.name, soft=2, hard=1, timeout=20)
        assert "soft_time_limit" in wrong.failed["one"]


async def test_a_rate_limit_holds_from_then_on(app: AioTQ) -> None:
    starts: list[float] = []

    @app.task
    async def often() -> None:
        starts.append(time.time())

    async with app, app.worker(name="one"):
        assert (await app.control.rate_limit(often.name, "5/s", timeout=20))["one"] == {"ok": "rate limit is 5/s"}
        await (await app.send_many(often.s() for _ in range(4))).get(timeout=20)
        wrong = await app.control.rate_limit(often.name, "fast", timeout=20)
        assert "no rate: 'fast'" in wrong.failed["one"]
        unknown = await app.control.rate_limit("no.such", "5/s", timeout=20)
        assert "no.such" in unknown.failed["one"]

    assert starts[-1] - starts[0] >= 3 * 0.2 - 0.25


async def test_the_level_of_a_logger_is_changed(app: AioTQ) -> None:
    async with app, app.worker(name="one"):
        assert not (await app.control.log_level("debug", "some.logger", timeout=20)).failed
        assert logging.getLogger("some.logger").level == logging.DEBUG
        assert "LOUD" in (await app.control.log_level("loud", timeout=20)).failed["one"].upper()


async def test_a_worker_that_is_told_to_stop_answers_and_stops(app: AioTQ) -> None:
    async with app:
        worker = app.worker(name="one")
        await worker.__aenter__()
        assert (await app.control.shutdown(destination=["one"], timeout=20))["one"] == {"ok": "stopping"}
        async with asyncio.timeout(20):
            await worker.wait()


async def test_calls_are_terminated(app: AioTQ) -> None:
    @app.task
    async def sleeps() -> None:
        await asyncio.sleep(60)

    async with app, app.worker() as worker:
        result = await sleeps.delay()
        await wait_until(lambda: worker.running, "it runs")
        await app.control.terminate(result.id)
        with pytest.raises(Exception, match=r"revoked|terminated"):
            await result.get(timeout=20)


async def test_commands_of_ones_own_get_the_worker_and_arguments_of_their_types(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()

    @app.inspect_command
    async def sums(worker: Worker, *numbers: int) -> object:
        return {"sum": sum(numbers), "worker": worker.name}

    @app.control_command(name="tune")
    def tune_it(worker: Worker, level: int | None = 3, names: list[str] | None = None) -> object:
        return [level, names]

    @app.control_command
    def fails(worker: Worker) -> object:
        raise LookupError("nothing there")

    async with app, app.worker(name="one"):
        assert (await asker.control.inspect(timeout=20).query("sums", 1, "2"))["one"] == {"sum": 3, "worker": "one"}
        tune = asker.control.broadcast
        assert (await tune("tune", ["5", '["a"]'], timeout=20))["one"] == [5, ["a"]]
        assert (await tune("tune", kwargs={"level": None}, timeout=20))["one"] == [None, None]
        for args, kwargs, complaint in (
            (["x"], {}, "level must be none or a whole number, not 'x'"),
            ([1, [], 3], {}, "takes 2 arguments, and 3 were given"),
            ([], {"colour": 1}, "has no argument 'colour'"),
            ([1], {"level": 1}, "level is given twice"),
        ):
            assert complaint in (await tune("tune", args, kwargs, timeout=20)).failed["one"]
        assert (await tune("fails", timeout=20)).failed["one"] == "LookupError: nothing there"
        unknown = (await tune("no_such", timeout=20)).failed["one"]
        assert unknown.startswith("no command 'no_such' here: there are active")


async def test_answers_that_are_large_come_whole(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()

    @app.inspect_command
    def large(worker: Worker, size: int) -> object:
        return "x" * size

    async with app, app.worker(name="one"):
        inspect = asker.control.inspect(timeout=30)
        assert await inspect.query("large", 1_000_000) == {"one": "x" * 1_000_000}
        assert "can be sent" in (await inspect.query("large", 5_000_000)).failed["one"]


async def test_what_is_no_command_is_counted_and_the_worker_goes_on(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()
    async with app, asker, app.worker(name="one"):
        connection = await core_of(asker).connection()
        for junk in (b"", b"\xff\x00", b"{}", b'{"id": "a"}\nnull', b'{"id": "a"}\n{"name": 1}', b"[" * 10_000):
            await connection.bus.tell_all(COMMANDS, junk)
        now = time.time()
        head, body = pack_command(
            Command(new_id(), "log_level", ["debug", "to.come"], {}, None, None, now), None
        ).split(b"\n")
        of_a_version_to_come = head[:-1] + b', "of": 7}\n' + body[:-1] + b', "urgency": 3}'
        await connection.bus.tell_all(COMMANDS, of_a_version_to_come)
        once = Command(new_id(), "ping", [], {}, None, None, now)
        late = Command(new_id(), "shutdown", [], {}, None, None, now - STALE - 1)
        for command in (once, once, late):
            await connection.bus.tell_all(COMMANDS, pack_command(command, None))

        async def counts() -> Any:
            counted = (await asker.control.inspect(timeout=20).stats())["one"]["commands"]
            return counted if counted.get("malformed") == 6 and counted.get("stale") else None

        counted = await wait_until(counts, "all junk is counted")
        assert logging.getLogger("to.come").level == logging.DEBUG, "what says more than is known is obeyed"
        assert counted["repeated"] == 1
        assert counted["stale"] == 1


async def test_a_thousand_commands_at_once_do_not_hold_up_tasks_nor_later_commands(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()

    @app.task
    async def add(x: int) -> int:
        return x + 1

    async with app, asker, app.worker(name="one"):
        bus, now = (await core_of(asker).connection()).bus, time.time()
        for _ in range(1000):
            await bus.tell_all(COMMANDS, pack_command(Command(new_id(), "stats", [], {}, None, None, now), None))

        assert await (await add.delay(1)).get(timeout=20) == 2
        assert await asker.control.ping(timeout=20) == {"one": {"ok": "pong"}}


async def test_answers_that_nobody_waits_for_or_that_are_none_change_nothing(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()
    async with app, asker, app.worker(name="one"):
        told = (await core_of(app).connection()).bus
        address = (await core_of(asker).connection()).bus.address
        late = list(pack_answer(new_id(), "ghost", "ghost#1", b'{"ok": "late"}', is_error=False, signer=None))
        asking = asyncio.create_task(asker.control.ping(timeout=20))
        for payload in (*late, *late, b"", b"junk", b"\xff\n{}", late[0][:-3]):
            await told.tell(address, ANSWERS, payload)

        assert await asking == {"one": {"ok": "pong"}}
        assert await asker.control.ping(timeout=20) == {"one": {"ok": "pong"}}


async def test_with_a_key_commands_and_answers_are_signed_or_refused(make_app: MakeApp) -> None:
    key = "k" * 40
    app, friend, stranger, enemy = (
        make_app(**settings) for settings in ({"security_key": key},) * 2 + ({}, {"security_key": "e" * 40})
    )
    async with app, friend, stranger, enemy, app.worker(name="one") as worker:
        assert (await friend.control.ping(timeout=20))["one"] == {"ok": "pong"}
        assert await stranger.control.shutdown(timeout=0.5) == {}
        assert await enemy.control.shutdown(timeout=0.5) == {}

        stats = (await friend.control.inspect(timeout=20).stats())["one"]
        assert stats["commands"]["refused"] >= 2
        assert worker.queues == ("default",)


async def test_what_can_not_be_asked_is_refused_at_once(app: AioTQ) -> None:
    async with app:
        with pytest.raises(InvalidOption, match="timeout"):
            await app.control.ping(timeout=0)
        with pytest.raises(InvalidOption, match="destination"):
            await app.control.ping(destination=[])
        with pytest.raises(CallError, match="JSON"):
            await app.control.broadcast("ping", [object()])
        with pytest.raises(CallError, match="at most"):
            await app.control.broadcast("ping", ["x" * 70_000])


async def test_a_worker_whose_loop_is_blocked_is_answered_for_by_its_lifeline(make_app: MakeApp) -> None:
    app, asker = make_app(worker_loop_lag=0.2), make_app()
    is_blocked, release = threading.Event(), threading.Event()

    @app.task
    async def blocks() -> None:
        is_blocked.set()
        release.wait(30)

    async def work() -> None:
        async with app, app.worker(name="stuck"):
            result = await blocks.delay()
            await result.get(timeout=30)

    worker = threading.Thread(target=lambda: asyncio.run(work()))
    worker.start()
    try:
        await asyncio.to_thread(is_blocked.wait, 20)

        async def blocked() -> Any:
            return (await asker.control.inspect(timeout=0.3).ping()).blocked

        assert "has been blocked for" in (await wait_until(blocked, "the lifeline says so"))["stuck"]
        inspect = asker.control.inspect(timeout=0.3)
        assert (await inspect.ping())["stuck"]["ok"] == "pong"
        assert "release.wait(30)" in (await inspect.stacks())["stuck"]["ok"]
        active = await inspect.active()
        assert active == {}
        assert active.silent == ("stuck",)
        (member,) = await asker.control.fleet()
        assert member.blocked is not None
        assert blocks.name in member.blocked
    finally:
        release.set()
        await asyncio.to_thread(worker.join, 60)
    assert list(await registered((await core_of(asker).connection()).ledger)) == []


async def test_schedulers_are_in_the_registry_and_nobody_waits_for_their_answers(make_app: MakeApp) -> None:
    app, asker = make_app(), make_app()
    async with app, app.worker(name="one"), app.beat():

        async def fleet() -> Any:
            members = {each.kind: each for each in await asker.control.fleet()}
            return members if len(members) == 2 and members["scheduler"].is_live else None

        await app.control.heartbeat(timeout=20)
        members = await wait_until(fleet, "both are there, and the scheduler is live")
        assert members["worker"].name == "one"
        assert members["scheduler"].queues == ()
        assert not members["scheduler"].is_missing
        began = time.monotonic()
        assert sorted(await asker.control.ping(timeout=20)) == ["one"]
        assert time.monotonic() - began < 15
    assert list(await asker.control.fleet()) == []


async def test_what_is_revoked_and_what_waits_for_its_time_is_told(make_app: MakeApp, url: str) -> None:
    app, asker = make_app(), make_app()

    @app.task
    async def add(x: int, *, y: int) -> None: ...

    async with app, app.worker(name="one"):
        later = await add.options(countdown=2000).delay(3, y=4)
        first = await add.options(countdown=1000, priority=7).delay(1, y=2)
        await asker.admin.revoke("some-id", tasks=["proj.add"])
        inspect = asker.control.inspect(timeout=20)
        scheduled = await inspect.scheduled()
        if url.startswith("amqp"):
            assert "can't list" in scheduled.failed["one"]
        else:
            calls = scheduled["one"]
            assert [call["request"]["id"] for call in calls] == [first.id, later.id]
            assert (calls[0]["priority"], calls[0]["request"]["name"]) == (7, add.name)
            assert (calls[0]["request"]["args"], calls[0]["request"]["kwargs"]) == ("(1,)", "{'y': 2}")
            assert 900 < datetime.fromisoformat(calls[0]["eta"]).timestamp() - time.time() <= 1000
            assert len((await inspect.scheduled(limit=1))["one"]) == 1
            assert "limit is 1 to" in (await inspect.scheduled(limit=0)).failed["one"]
        revoked = (await inspect.revoked())["one"]
        assert {each["what"] for each in revoked} == {"some-id", "task proj.add"}
        assert (await app.control.pool_restart(timeout=20))["one"] == {"ok": "child processes to be replaced: 0"}


def test_who_is_missing_is_forgotten_after_a_while() -> None:
    table = FleetTable()
    table.renew("a", b"", 10.0, 0.0)
    (seen,) = table.present(11.0)
    assert seen.left == -1.0
    assert len(table.present(9.0 + MISSING_KEPT)) == 1
    assert table.present(10.0 + MISSING_KEPT) == []
    assert len(table) == 0


async def test_commands_leave_nothing_behind_even_when_whoever_asks_is_cut_off(make_app: MakeApp) -> None:
    app = make_app()
    async with app, app.worker(name="one"):
        before = await app.control.inspect(timeout=20).stats()
        asked = [asyncio.create_task(app.control.ping(timeout=20)) for _ in range(100)]
        await asyncio.sleep(0)
        for number, each in enumerate(asked):
            if number % 2:
                each.cancel()
        ended = await asyncio.gather(*asked, return_exceptions=True)

        assert [isinstance(each, asyncio.CancelledError) for each in ended] == [False, True] * 50
        after = await app.control.inspect(timeout=20).stats()
        assert before.keys() == after.keys() == {"one"}
        assert len(await app.control.fleet()) == 1
        bus = (await core_of(app).connection()).bus
        assert not bus._handlers.get(ANSWERS)  # pyright: ignore[reportPrivateUsage]  # nobody listens any more
