"""Routes, queues and unknown names, with workers on each broker."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Exchange, Queue
from aiotq.exceptions import DeadLettered, QueueNotFound, TaskRevokedError
from aiotq.worker import unknown

from ..servers import shared
from ..waiting import wait_until

MakeApp = Callable[..., AioTQ]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> MakeApp:
    """Return what makes apps on one and the same broker."""
    mark = secrets.token_hex(4)
    match request.param:
        case "memory":
            url = f"memory://{mark}"
        case "sqlite":
            url = f"sqlite:///{tmp_path}/aiotq.db"
        case _:
            url = f"{shared('redis').url}?prefix={mark}"

    def make(**settings: Any) -> AioTQ:
        return AioTQ("proj", broker=url, **settings)

    return make


def with_where(app: AioTQ) -> Any:
    """Add a task that returns where it ran."""

    @app.task(bind=True, name="proj.where")
    async def where(self: Any) -> str:
        return str(self.request.delivery_info["queue"])

    return where


async def test_a_call_goes_where_its_route_says_and_a_worker_consumes_what_is_declared(make_app: MakeApp) -> None:
    app = make_app(
        task_queues=["default", "feeds", Queue("videos", "media", "media.video")],
        task_routes=[{"proj.w*": "feeds"}],
        task_create_missing_queues=False,
    )
    where = with_where(app)

    async with app, app.worker() as worker:
        assert worker.queues == ("default", "feeds", "videos")
        assert await (await where.delay()).get(timeout=5) == "feeds"
        assert await (await where.options(queue="default").delay()).get(timeout=5) == "default"
        to_videos = where.options(exchange="media", routing_key="media.video")
        assert await (await to_videos.delay()).get(timeout=5) == "videos"
        with pytest.raises(QueueNotFound):
            await where.options(queue="other").delay()


async def test_a_fanout_reaches_every_queue_and_its_result_is_the_first_ones(make_app: MakeApp) -> None:
    everywhere = Exchange("everywhere", "fanout")
    app = make_app(
        task_queues=[Queue(name, everywhere) for name in "abc"],
        task_routes={"proj.note": {"exchange": "everywhere"}},
    )
    ran: list[tuple[str, str]] = []

    @app.task(bind=True, name="proj.note")
    async def note(self: Any) -> str:
        ran.append((self.request.delivery_info["queue"], self.request.id))
        return str(self.request.delivery_info["queue"])

    async with app:
        result = await note.delay()
        many = await app.send_many([note.s(), note.s()])
        async with app.worker():
            assert await result.get(timeout=5) == "a"
            assert await many.get(timeout=5) == ["a", "a"]
            await wait_until(lambda: len(ran) == 9, "each of three calls ran from three queues")

    assert sorted(queue for queue, _ in ran) == [*"aaabbbccc"]
    assert len({task_id for _, task_id in ran}) == 9
    assert ("a", result.id) in ran


async def test_an_excluded_queue_waits(make_app: MakeApp) -> None:
    app = make_app(task_queues=["a", "b"], task_default_queue="a")
    where = with_where(app)

    async with app, app.worker(exclude_queues=["b"]):
        waiting = await where.options(queue="b").delay()
        assert await (await where.delay()).get(timeout=5) == "a"
        assert await waiting.state() == "PENDING"
        async with app.worker(["b"]):
            assert await waiting.get(timeout=5) == "b"


@pytest.mark.usefixtures("no_shared_tasks")  # with tasks of one kind a worker reads what it can start
async def test_a_strict_worker_empties_one_queue_before_the_next(make_app: MakeApp) -> None:
    app = make_app(worker_queue_order="strict")
    ran: list[str] = []

    @app.task(bind=True)
    async def note(self: Any) -> None:
        ran.append(self.request.delivery_info["queue"])

    async with app:
        await app.send_many([note.s().set(queue="lo", priority=9) for _ in range(20)])
        await app.send_many([note.s().set(queue="hi", priority=0) for _ in range(20)])
        async with app.worker(["hi", "lo"], concurrency=1):
            await wait_until(lambda: len(ran) == 40, "all have run")

    assert ran == ["hi"] * 20 + ["lo"] * 20


@pytest.mark.usefixtures("no_shared_tasks")
async def test_weights_share_the_turns(make_app: MakeApp) -> None:
    app = make_app()
    ran: list[str] = []

    @app.task(bind=True)
    async def note(self: Any) -> None:
        ran.append(self.request.delivery_info["queue"])

    async with app:
        for queue in ("lo", "hi"):
            await app.send_many([note.s().set(queue=queue) for _ in range(40)])
        async with app.worker(["lo", "hi"], concurrency=1, queue_weights={"hi": 3}):
            await wait_until(lambda: len(ran) == 80, "all have run")

    assert ran[:40].count("hi") == 30


# Names that not every worker knows


async def test_in_a_fleet_of_which_one_worker_knows_the_name_it_runs_soon(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    old = [make_app() for _ in range(3)]
    new = make_app()

    @new.task(name="proj.new")
    async def added(x: int) -> int:
        return x + 1

    async with old[0], old[1], old[2], new, old[0].worker(), old[1].worker(), old[2].worker():
        with caplog.at_level(logging.WARNING, "aiotq.worker"):
            early = [await new.send_task("proj.new", (n,)) for n in range(10)]

            async def are_returned() -> bool:
                (stats,) = await new.admin.queues(["default"])
                return stats.delayed == 10

            await wait_until(are_returned, "they were handed on")
        async with new.worker():
            for n, result in enumerate(early):
                assert await result.get(timeout=30) == n + 1
        assert not await new.admin.dead_letters()
    warnings = [record for record in caplog.records if "no task is registered as 'proj.new'" in record.getMessage()]
    assert 1 <= len(warnings) <= 3


async def test_what_no_worker_knows_ends_as_a_dead_letter_and_a_failure(make_app: MakeApp) -> None:
    app = make_app(worker_unknown_task_timeout=1.0)

    async with app, app.worker():
        result = await app.send_task("proj.new", task_id="unknown")

        with pytest.raises(DeadLettered, match=r"unknown_task: no task is registered as 'proj.new' here, and in 1 s"):
            await result.get(timeout=10)
        (letter,) = await app.admin.dead_letters()
        assert (letter.reason, letter.message and letter.message.id) == ("unknown_task", "unknown")


async def test_a_fleet_that_does_not_know_a_name_does_not_spin(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []
    delay = unknown.UnknownTasks.delay

    def counted(self: unknown.UnknownTasks, delivery: Any) -> float | None:
        seen.append(delay(self, delivery))
        return seen[-1]

    monkeypatch.setattr(unknown.UnknownTasks, "delay", counted)
    app = make_app(worker_unknown_task_timeout=2.0)

    async with app, app.worker(), app.worker():
        with pytest.raises(DeadLettered):
            await (await app.send_task("proj.new")).get(timeout=15)

    assert len(seen) <= 20


async def test_an_unknown_task_that_expires_meanwhile_is_revoked(make_app: MakeApp) -> None:
    app = make_app()

    async with app, app.worker():
        with pytest.raises(TaskRevokedError, match="expired"):
            await (await app.send_task("proj.new", expires=0.3)).get(timeout=10)
        assert not await app.admin.dead_letters()
