"""What is asked of an app by whoever shows it: finished and live calls, figures, workflows; and the same as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from aiotq import AioTQ, Reject
from aiotq.control.queries import Queries
from aiotq.core.inside import core_of
from aiotq.results.index import FinishedQuery
from aiotq.results.shown_arguments import MASK
from aiotq.web.api import api_routes

from ..waiting import wait_until

SECRET = "hunter2"


def shop(**settings: Any) -> AioTQ:
    app = AioTQ("shop", broker="memory://", worker_lease=1.0, **settings)

    @app.task(name="shop.pay")
    async def pay(order: int, password: str) -> int:
        if order < 0:
            raise ValueError(f"no order {order}")
        return order

    @app.task(name="shop.give_up")
    async def give_up() -> None:
        raise Reject("not mine")

    @app.task(name="shop.wait")
    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    return app


async def walked(app: AioTQ) -> Mapping[str, str]:
    """Have calls end in every way, and one run; return their ids."""
    pay, give_up, wait = (app.tasks[f"shop.{name}"] for name in ("pay", "give_up", "wait"))
    ids = dict[str, str]()
    for name, task, args in (("ok", pay, (1, SECRET)), ("bad", pay, (-1, SECRET)), ("dead", give_up, ())):
        result = await task.apply_async(args)
        ids[name] = result.id
        await result.get(propagate=False)
    flow = await (pay.si(1, SECRET) | pay.si(-2, SECRET) | pay.si(3, SECRET))()
    await flow.get(propagate=False)
    assert flow.parent is not None
    assert flow.parent.parent is not None
    ids["flow"] = flow.parent.parent.id
    ids["live"] = (await wait.delay(60)).id
    ids["later"] = (await wait.apply_async((0,), countdown=600)).id
    return ids


@pytest.fixture
async def app() -> AsyncIterator[AioTQ]:
    app = shop(result_index="all", result_extended=True)
    async with app, app.worker(grace=0.0) as worker:
        yield app
        assert worker.completed


async def test_how_things_stand_is_told_as_values(app: AioTQ) -> None:
    ids = await walked(app)
    queries = Queries(core_of(app))
    await wait_until(lambda: _has_counted(app, 6), "the worker's row tells of all")

    overview = await queries.overview()
    figures = overview.figures
    assert (figures.succeeded, figures.failed, figures.other) == (2, 2, 1)
    assert not overview.notes
    assert [each.task for each in overview.failing] == ["shop.pay"]
    assert overview.failing[0].lately.errors == {"ValueError": 2}
    assert overview.recent.minutes[-1].figures.count + overview.recent.minutes[-2].figures.count == figures.count
    (queue,) = overview.queues
    assert (queue.stats.name, queue.stats.leased, queue.state) == ("default", 1, "keeps up")

    page = await queries.calls(FinishedQuery(), await queries.live())
    assert [each.id for each in page.live] == [ids["live"], ids["later"]]
    assert page.counts == {"SUCCESS": 2, "FAILURE": 3, "STARTED": 1, "DELAYED": 1}
    bad = next(each for each in page.finished if each.id == ids["bad"])
    assert (bad.args, bad.error, bad.queue) == (f"-1, {MASK}", "ValueError: no order -1", "default")
    assert bad.ran is not None
    assert (await queries.calls(FinishedQuery(states=("SUCCESS",), limit=1))).cursor

    view = await queries.call(ids["bad"])
    assert (view.state, view.name, view.error) == ("FAILURE", "shop.pay", "ValueError: no order -1")
    assert view.arguments is not None
    assert [(each.name, each.text, each.is_masked) for each in view.arguments] == [
        ("order", "-1", False),
        ("password", MASK, True),
    ]
    dead = await queries.call(ids["dead"])
    assert (dead.state, dead.dead_reason, dead.arguments) == ("DEAD", "rejected", ())
    live = await queries.call(ids["live"])
    assert (live.state, live.name) == ("STARTED", "shop.wait")
    assert live.live is not None
    assert live.live.seconds is not None
    assert not (await queries.call("unheard-of")).is_known

    (flow,) = (await queries.workflows()).workflows
    assert (flow.id, flow.state, flow.total, flow.ended, flow.failed) == (ids["flow"], "FAILURE", 3, 3, 2)
    assert (await queries.call(ids["flow"])).graph is not None
    (letter,) = await queries.dead_letters()
    assert (letter.id, letter.reason, letter.args) == (ids["dead"], "rejected", "")
    assert {each.rule for each in overview.findings} == {"settings", "dead-letters-grow"}


async def _has_counted(app: AioTQ, count: int) -> bool:
    await app.control.heartbeat()
    recent = await Queries(core_of(app)).recent()
    return recent.last(60).count >= count - 1


@pytest.mark.parametrize(("index", "found"), [("failures", {"FAILURE"}), ("none", set[str]())])
async def test_what_is_listed_is_a_setting(index: str, found: set[str]) -> None:
    app = shop(result_index=index)
    async with app, app.worker(grace=0.0):
        await walked(app)

        page = await Queries(core_of(app)).calls(FinishedQuery())

    assert page.counts.keys() == found
    assert page.problem is None


async def test_where_no_results_are_kept_the_page_says_so() -> None:
    app = shop(result_backend="disabled://")
    async with app:
        queries = Queries(core_of(app))

        assert "no results are kept" in ((await queries.calls(FinishedQuery(), await queries.live())).problem or "")
        assert "no results are kept" in ((await queries.workflows()).problem or "")


def who_asks(request: Request) -> Any:
    name = request.headers.get("x-name")
    return None if name is None else SimpleNamespace(name=name, may_operate=name == "mara")


async def test_the_api_tells_and_does_what_the_command_line_does(app: AioTQ) -> None:
    ids = await walked(app)
    acts: list[tuple[str, str]] = []

    def record(_: Request, act: str, __: Mapping[str, Any], outcome: str) -> None:
        acts.append((act, outcome))

    site = Starlette(routes=[Mount("/api", routes=api_routes(core_of(app), who_asks, record))])
    transport = httpx.ASGITransport(site)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop/api", headers={"x-name": "mara"}) as http:

        async def got(path: str, **query: Any) -> Any:
            answer = await http.get(path, params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

        document = await got("/openapi.json")
        for path, operations in cast("dict[str, Any]", document["paths"]).items():
            if "get" in operations and "{" not in path:
                assert await got(path) is not None
        assert SECRET not in str([await got(path) for path in ("/overview", "/tasks", f"/tasks/{ids['bad']}")])
        found = await got("/tasks", state="failure", name="shop.pay", limit=1, live="false")
        assert [each["name"] for each in found["finished"]] == ["shop.pay"]
        assert (await got(f"/tasks/{ids['bad']}"))["error"] == "ValueError: no order -1"

        again = (await http.post(f"/tasks/{ids['ok']}/again", json={})).json()
        assert await app.AsyncResult(again["id"]).get() == 1
        assert not again["replayed"]
        assert (await http.post("/send", json={"task": "shop.pay", "args": [5, "x"]})).status_code == 200
        assert (await http.post(f"/tasks/{ids['bad']}/delete")).json() == {"deleted": 1}
        assert (await got("/tasks", id_prefix=ids["bad"]))["finished"] == []
        assert (await http.post("/queues/default/pause")).json() == {"changed": True}
        assert (await got("/queues"))[0]["state"] == "paused"
        assert (await http.post("/queues/default/purge", json={"confirm": "other"})).status_code == 400
        assert (await http.post("/queues/default/purge", json={"confirm": "default"})).json()["deleted"] >= 1
        assert (await http.post(f"/tasks/{ids['live']}/revoke", json={"terminate": True})).status_code == 200
        assert acts[0] == (f"/api/tasks/{ids['ok']}/again", "done")

        for path, body, status in (
            ("/send", {"task": 7}, 400),
            ("/send", {}, 400),
            ("/send", {"task": "shop.pay", "colour": 1}, 400),
            ("/tasks/unheard-of/again", {}, 400),
            ("/dead/replay", {}, 400),
            ("/dead/purge", {"confirm": False}, 400),
        ):
            refused = await http.post(path, json=body)
            assert (refused.status_code, list(refused.json())) == (status, ["error"])
        assert (await http.get("/tasks", params={"state": "DONE"})).status_code == 400
        assert (await http.get("/tasks", params={"limit": "many"})).status_code == 400
        assert (await http.post("/queues/default/resume", headers={"x-name": "otto"})).status_code == 403
    async with httpx.AsyncClient(transport=transport, base_url="http://shop/api") as stranger:
        assert (await stranger.get("/overview")).status_code == 401
        assert (await stranger.get("/openapi.json")).status_code == 401
        assert (await stranger.post("/queues/default/resume")).status_code == 401
