"""What a task and its result know of the call: `delivery_info`, the request's fields, and `result_extended`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Exchange, Queue, chain, group
from aiotq.exceptions import TaskRevokedError
from aiotq.tasks.request import Request

from .conftest import MakeApp

QUEUES = [
    Queue("default"),
    Queue("feeds", exchange=Exchange("news", "topic"), routing_key="feed.#"),
    Queue("videos", exchange=Exchange("media", "direct"), routing_key="video"),
    Queue("all", exchange=Exchange("shout", "fanout")),
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"queue": "default", "exchange": "", "routing_key": "default"}),
        ({"queue": "videos"}, {"queue": "videos", "exchange": "", "routing_key": "videos"}),
        (
            {"exchange": "news", "routing_key": "feed.tech"},
            {"queue": "feeds", "exchange": "news", "routing_key": "feed.tech"},
        ),
        ({"queue": "feeds"}, {"queue": "feeds", "exchange": "news", "routing_key": "feed.#"}),
        (
            {"exchange": "media", "routing_key": "video"},
            {"queue": "videos", "exchange": "media", "routing_key": "video"},
        ),
        ({"exchange": "shout"}, {"queue": "all", "exchange": "shout", "routing_key": ""}),
        ({"priority": 9}, {"queue": "default", "exchange": "", "routing_key": "default"}),
    ],
)
async def test_a_task_sees_how_it_came(make_app: MakeApp, options: Any, expected: dict[str, Any]) -> None:
    app = make_app(task_queues=QUEUES)

    @app.task(bind=True)
    async def seen(self: Any) -> dict[str, Any]:
        return dict(self.request.delivery_info)

    async with app, app.worker():
        info = await (await seen.apply_async(**options)).get(timeout=10)
    assert info == {
        "priority": 4,
        "redelivered": False,
        **expected,
        **{k: v for k, v in options.items() if k == "priority"},
    }


async def test_an_extended_result_tells_how_its_task_was_called(make_app: MakeApp) -> None:
    app = make_app(result_extended=True)

    @app.task(name="add", bind=True, default_retry_delay=0)
    async def add(self: Any, x: int, *, y: int) -> int:
        await self.update_state("HALF", {"at": 1})
        if not self.request.retries:
            raise self.retry()
        return x + y

    async with app, app.worker(queues=["sums"]) as worker:
        result = await add.apply_async((2,), {"y": 2}, queue="sums")
        metas: list[dict[str, Any]] = []
        assert await result.get(timeout=10, on_message=metas.append) == 4

        for handle in (result, app.AsyncResult(result.id)):
            assert await handle.name() == "add"
            assert await handle.args() == (2,)
            assert await handle.kwargs() == {"y": 2}
            assert (await handle.retries(), await handle.queue(), await handle.worker()) == (1, "sums", worker.name)
    assert metas
    assert all((meta["name"], meta["args"], meta["kwargs"]) == ("add", [2], {"y": 2}) for meta in metas)


async def test_what_failed_or_never_ran_is_told_of_too(make_app: MakeApp) -> None:
    app = make_app(result_extended=True)

    @app.task(name="fail")
    async def fail(x: int) -> None:
        raise ValueError(x)

    async with app:
        revoked = await fail.delay(2)
        await revoked.revoke()
        failed = await fail.delay(1)
        async with app.worker():
            with pytest.raises(ValueError, match="1"):
                await failed.get(timeout=10)
            with pytest.raises(TaskRevokedError):
                await revoked.get(timeout=10)
        assert (await failed.args(), await failed.queue()) == ((1,), "default")
        assert (await revoked.name(), await revoked.args(), await revoked.queue()) == ("fail", None, "default")


async def test_arguments_that_leave_no_room_for_the_value_are_not_kept(make_app: MakeApp) -> None:
    app = make_app(result_extended=True, result_max_size=1000)

    @app.task
    async def length(text: str) -> int:
        return len(text)

    async with app, app.worker():
        result = await length.delay("x" * 2000)
        assert await result.get(timeout=10) == 2000
        assert (await result.args(), await result.retries()) == (None, 0)


async def test_a_plain_result_tells_its_name_and_worker_alone(app: AioTQ) -> None:
    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker() as worker:
        result = await add.delay(2, 2)
        await result.get(timeout=10)
        assert (await result.name(), await result.worker()) == ("add", worker.name)
        assert (await result.args(), await result.kwargs(), await result.retries(), await result.queue()) == (None,) * 4


async def test_what_code_without_a_loop_reads(make_app: MakeApp) -> None:
    app = make_app(result_extended=True)

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def read(task_id: str) -> list[Any]:
        result = app.AsyncResult(task_id).sync
        return [result.name, result.args, result.kwargs, result.retries, result.queue, bool(result.worker)]

    async with app, app.worker():
        result = await add.delay(2, y=2)
        await result.get(timeout=10)
        told = await (await read.delay(result.id)).get(timeout=10)
    assert told == ["add", (2,), {"y": 2}, 0, "default", True]


async def test_a_request_has_the_fields_that_celery_documents(app: AioTQ) -> None:
    seen: list[Request] = []

    @app.task(bind=True, name="step")
    async def step(self: Any, *_: Any, **__: Any) -> None:
        seen.append(self.request)

    async with app, app.worker() as worker:
        call = step.s(1, x=2).set(headers={"a": 1}, link=step.si(), link_error=step.si(), time_limit=60)
        flow = chain(call, group(step.si(3), step.si(4)), step.si())
        await (await flow.delay()).get(timeout=10)
        first = seen[0]
        header = next(request for request in seen if request.args == (3,))

    assert (first.id, first.root_id, first.parent_id, first.correlation_id) == (first.id, first.id, None, first.id)
    assert (first.task, first.args, first.kwargs, first.retries) == ("step", (1,), {"x": 2}, 0)
    assert (first.headers, first.timelimit, first.hostname) == ({"a": 1}, (60, None), worker.name)
    assert (first.time_limit, first.soft_time_limit) == (60, None)
    assert (first.eta, first.expires, first.utc, first.is_eager, first.called_directly) == (
        None,
        None,
        True,
        False,
        False,
    )
    assert ([each.task for each in first.callbacks], [each.task for each in first.errbacks]) == (["step"], ["step"])
    assert first.properties == {"correlation_id": first.id, "reply_to": first.reply_to, "priority": 4}
    assert first.chord is None
    assert header.root_id == first.id
    assert header.group is not None
    assert (header.group_index, isinstance(header.chord, str)) == (0, True)
    assert Request().callbacks == Request().errbacks == Request().chain == ()


async def test_a_request_knows_how_and_where_it_is_logged(
    app: AioTQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("aiotq")
    handler = logging.FileHandler(tmp_path / "worker.log")

    @app.task(bind=True)
    async def seen(self: Any) -> list[Any]:
        return [self.request.loglevel, self.request.logfile]

    async with app, app.worker():
        monkeypatch.setattr(log, "propagate", False)
        monkeypatch.setattr(log, "handlers", [handler])
        monkeypatch.setattr(log, "level", logging.ERROR)
        to_file = await (await seen.delay()).get(timeout=10)
        monkeypatch.setattr(log, "handlers", [logging.NullHandler()])
        to_nowhere = await (await seen.delay()).get(timeout=10)
    handler.close()
    assert (to_file, to_nowhere) == ([logging.ERROR, str(tmp_path / "worker.log")], [logging.ERROR, None])
