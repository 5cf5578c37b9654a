"""The dashboard over ASGI, without a browser: who gets in, what pages show, and what acts do."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from aiotq import AioTQ, Reject, chord, current_task
from aiotq.control.views import LiveCall, LiveCalls
from aiotq.exceptions import InvalidOption, OperationalError
from aiotq.web.dashboard import Basic, Role, Visitor

from ..servers import RedisServer, shared_postgres, shared_rabbit
from ..waiting import wait_until

TOKEN: Final = "a token that operates"
READS: Final = "a token that reads"
HOSTILE: Final = "<script>alert('x')</script>\"'&lt;"
MASKED: Final = "hunter2"
PATIENCE: Final = 30.0


class Browser:
    """A client that keeps cookies and sends forms as a page has them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.html = ""
        self.answer: httpx.Response | None = None

    @property
    def text(self) -> str:
        """What the last page says, without its markup."""
        body = self.html.partition("</head>")[2]
        return unescape(re.sub(r"<[^>]+>", "", body))

    async def get(self, path: str, status: int = 200) -> str:
        self._took(await self.client.get(path))
        assert self.answer is not None
        assert self.answer.status_code == status, self.text
        return self.html

    async def sign_in(self, token: str = TOKEN) -> None:
        await self.get("/sign-in")
        await self.send("/sign-in", token=token)

    async def send(self, path: str, **fields: str | list[str]) -> str:
        """Send a form of the page that is open; return the page that answers."""
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.html)
        assert csrf is not None, self.html
        self._took(await self.client.post(path, data={"csrf": csrf[1], **fields}))
        return self.html

    def _took(self, answer: httpx.Response) -> None:
        self.answer, self.html = answer, answer.text
        assert len(answer.content) < 100_000


@asynccontextmanager
async def browsing(
    application: Any, client: tuple[str, int] = ("127.0.0.1", 4711), **more: Any
) -> AsyncIterator[Browser]:
    transport = httpx.ASGITransport(application, client=client)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", follow_redirects=True, **more
    ) as opened:
        yield Browser(opened)


def make_app(broker: str, **settings: Any) -> AioTQ:
    app = AioTQ("shop", broker=broker, result_index="all", result_extended=True, task_track_started=True, **settings)

    @app.task(name="shop.add")
    async def add(x: int, y: int = 2, *, password: str = "") -> int:
        return x + y

    @app.task(name="shop.fail")
    async def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="shop.try_again", autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=0.0)
    async def try_again() -> int:
        retries: int = current_task.request.retries
        if retries < 2:
            raise ConnectionError(f"try {retries}")
        return retries

    @app.task(name="shop.reject")
    async def reject(text: str) -> None:
        raise Reject(text)

    @app.task(name="shop.total")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    @app.periodic(3600.0, name="shop.tidy")
    @app.task(name="shop.tidy")
    async def tidy() -> None:
        return None

    return app


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres", "rabbitmq"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A broker, and where results are kept if it keeps none."""
    match request.param:
        case "memory":
            yield {"broker": "memory://"}
        case "sqlite":
            yield {"broker": f"sqlite:///{tmp_path}/shop.db"}
        case "postgres":
            yield {"broker": shared_postgres().schema()}
        case kind:
            with RedisServer() as server:
                beside = {"broker": shared_rabbit().vhost(), "result_backend": server.url}
                yield beside if kind == "rabbitmq" else {"broker": server.url}


async def says(browser: Browser, path: str, *texts: str) -> bool:
    await browser.get(path)
    return all(each in browser.text for each in texts)


async def ended(*results: Any) -> None:
    for each in results:
        await wait_until(each.ready, "the call has ended")


async def test_every_page_shows_what_happened_and_acts_on_it(settings: dict[str, Any]) -> None:
    app = make_app(**settings)
    async with app, browsing(app.dashboard(auth={TOKEN: "operate", READS: "read"})) as browser:
        await browser.sign_in()
        async with app.worker(), app.beat():
            added = await app.send_task("shop.add", [2], {"y": 3, "password": MASKED})
            failed = await app.send_task("shop.fail", [HOSTILE])
            dead = await app.send_task("shop.reject", [HOSTILE])
            add, total = app.tasks["shop.add"], app.tasks["shop.total"]
            whole: Any = await chord([add.s(1, 1), add.s(2, 2)], total.s()).delay()
            tried = await app.send_task("shop.try_again")
            await ended(added, failed, dead, whole, tried)
            await app.send_task("shop.add", [1], countdown=600)

            await app.control.heartbeat()  # workers write down what they counted
            await wait_until(lambda: says(browser, "/", "Fails most", "shop.fail"), "the overview has the failure")
            for state, name in (("", "shop.add"), ("FAILURE", "shop.fail")):
                await browser.get(f"/tasks?state={state}&find={name}")
                assert name in browser.text
                assert MASKED not in browser.html
            await see_a_task_and_run_it_again(browser, added.id)
            await browser.get(f"/tasks/{failed.id}")
            assert f"ValueError: {HOSTILE}" in browser.text
            assert "<script>alert" not in browser.html
            await browser.get(f"/tasks/{tried.id}")
            told = re.findall(r"Attempt (\d) on .*?ms\W*(ConnectionError: try \d)?", browser.text)
            assert told == [("1", "ConnectionError: try 0"), ("2", "ConnectionError: try 1"), ("3", "")]
            first = whole.parent.results[0].id
            await browser.get(f"/workflows/{first}")
            assert "3 of 3 tasks have ended" in browser.text
            assert "<svg" in browser.html
            assert re.search(r"Succeeded · [\d.]+ .?s", browser.html)  # each for how long it ran
            await replay_and_delete(browser, app)
            await pause_and_purge(browser, app)
            await use_schedules(browser)
            await use_workers(browser)


async def see_a_task_and_run_it_again(browser: Browser, task_id: str) -> None:
    await browser.get(f"/tasks/{task_id}")
    assert "Succeeded" in browser.text
    assert "hidden by the setting masked_arguments" in browser.text
    assert MASKED not in browser.html
    await browser.send("/act/task/again", id=task_id, **{"a-x": "40", "a-y": "2", "a-password": ""})
    found = re.search(r"is sent again, as (\S+)\.", browser.text)
    assert found is not None, browser.text

    async def shows_it() -> bool:
        return "42" in (await browser.client.get(f"/tasks/{found[1]}")).text

    await wait_until(shows_it, "it ran again, with other arguments and the hidden one as before")


async def replay_and_delete(browser: Browser, app: AioTQ) -> None:
    await browser.get("/dead")
    assert "Rejected" in browser.text
    (letter,) = await app.admin.dead_letters()
    await browser.send("/act/dead/chosen", key=letter.key, act="replay")
    assert "1 dead letter sent to run again" in browser.text
    (letter,) = await wait_until(app.admin.dead_letters, "it was rejected again")
    await browser.get(f"/dead?show={letter.key}")
    await browser.send("/act/dead/chosen", key=letter.key, act="delete", typed="no")
    assert "Nothing was deleted" in browser.text
    await browser.send("/act/dead/chosen", key=letter.key, act="delete", typed="delete")
    assert "1 dead letter deleted" in browser.text
    assert "No dead letters" in browser.text


async def pause_and_purge(browser: Browser, app: AioTQ) -> None:
    await browser.get("/queues")
    assert "default" in browser.text
    await browser.send("/act/queues/pause", queue="default")
    assert "default is paused" in browser.text
    await browser.send("/act/queues/resume", queue="default")
    await browser.send("/act/queues/purge", queue="default", typed="something else")
    assert "Nothing was purged" in browser.text
    await browser.send("/act/queues/purge", queue="default", typed="default")
    left = sum(each.delayed for each in await app.admin.queues())
    if app.conf.broker_url.startswith("amqp"):
        assert "0 tasks deleted from default. What runs goes on. What is delayed stays." in browser.text
        assert left == 1
    else:
        assert "1 task deleted from default. What runs goes on." in browser.text
        assert left == 0


async def use_schedules(browser: Browser) -> None:
    await browser.get("/schedules")
    assert "shop.tidy" in browser.text
    await browser.send("/act/schedules/one", name="shop.tidy", act="fire")
    assert "is sent now" in browser.text
    await wait_until(
        lambda: says(browser, "/schedules?edit=shop.tidy", "Its last 1 run"), "the run is in the schedule's history"
    )
    assert 'aria-label="Of its last 1 run 1 succeeded"' in browser.html
    await browser.send(
        "/act/schedules/save", **{"is-new": "1"}, name="mine", task="shop.add", when="30 7 * * mon-fri", args="[1]"
    )
    assert "mine is added" in browser.text
    await browser.send("/act/schedules/save", name="mine", when="every day")
    assert "Nothing was changed" in browser.text
    await browser.send("/act/schedules/save", name="mine", when="90s", args="[2]")
    assert "every 1 m 30 s" in browser.text
    await browser.get("/schedules?edit=mine")
    await browser.send("/act/schedules/remove", name="mine", typed="mine")
    assert "mine is removed" in browser.text


async def use_workers(browser: Browser) -> None:
    await wait_until(lambda: says(browser, "/workers?ask=stacks", "MainThread"), "workers say where they stand")
    name = re.search(r'name="worker" value="([^"]+)"', browser.html)
    assert name is not None, browser.text
    await browser.send("/act/workers/one", worker=name[1], act="grow")
    assert "slots (loop)" in browser.text
    await browser.send("/act/workers/one", worker=name[1], act="pause")
    assert "takes nothing new" in browser.text
    await browser.send("/act/workers/one", worker=name[1], act="resume")
    await browser.get("/send?task=shop.add")
    await browser.send("/act/send", task="shop.add", **{"a-x": "much"})
    assert "x must be a whole number" in browser.text


async def test_chosen_tasks_are_run_again_revoked_and_deleted() -> None:
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth=TOKEN)) as browser:
        await browser.sign_in()
        async with app.worker():
            results = [await app.send_task("shop.fail", [f"number {number}"]) for number in range(3)]
            await ended(*results)
            page = await browser.get("/tasks?state=FAILURE&task=shop.fail")
            chosen = re.findall(r'name="id" value="([^"]+)"', page)
            assert len(chosen) == 3
            await browser.send("/act/tasks/chosen", id=chosen[:2], act="again", state="FAILURE")
            assert "2 tasks sent to run again" in browser.text

            async def five() -> bool:
                return len(re.findall('name="id"', await browser.get("/tasks?state=FAILURE"))) == 5

            await wait_until(five, "they failed again")
            await browser.send("/act/tasks/chosen", all="1", act="delete", typed="delete", state="FAILURE")
            assert "What is kept of 5 tasks is deleted" in browser.text
            await browser.get("/tasks?state=FAILURE")
            assert "Nothing matches" in browser.text
            await browser.send("/act/tasks/chosen", act="again")
            assert "no task was chosen" in browser.text


async def test_who_has_no_leave_sees_nothing_and_who_may_read_acts_on_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiotq.audit")
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth={TOKEN: "operate", READS: "read"})) as browser:
        await browser.get("/queues?sort=dead")
        assert "Sign in to shop" in browser.text
        assert (await browser.client.get("/api/queues")).status_code == 401
        assert (await browser.client.get("/live")).status_code == 401
        await browser.send("/sign-in?to=queues%3Fsort=dead", token="a wrong one")
        assert "That token is not known. 4 tries left" in browser.text
        await browser.send("/sign-in?to=queues%3Fsort=dead", token=READS)
        assert browser.answer is not None
        assert str(browser.answer.url) == "http://localhost/queues?sort=dead"
        await app.send_task("shop.add", [1])
        assert "Your role may only read" in await browser.get("/queues")

        await browser.send("/act/queues/purge", queue="default", typed="default")
        assert browser.answer.status_code == 403
        assert "You may only read" in browser.text
        answer = await browser.client.post("/api/queues/default/purge", json={})
        assert answer.status_code == 403
        (stats,) = await app.admin.queues(["default"])
        assert stats.ready == 1
    said = [record.getMessage() for record in caplog.records]
    assert (
        "'token (read)' from 127.0.0.1: /act/queues/purge queue='default' typed='default': 'refused: may only read'"
        in said
    )
    assert any("sign-in" in each and "wrong token" in each for each in said)


async def test_a_form_that_was_not_made_here_does_nothing() -> None:
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth=TOKEN)) as browser:
        await browser.sign_in()
        await app.send_task("shop.add", [1])
        await browser.get("/queues")
        asked = {"queue": "default", "typed": "default"}
        own = re.search(r'name="csrf" value="([^"]+)"', browser.html)
        assert own is not None
        for form, headers in (
            (asked, {}),
            ({**asked, "csrf": "forged"}, {}),
            ({**asked, "csrf": own[1]}, {"sec-fetch-site": "cross-site"}),
            ({**asked, "csrf": own[1]}, {"origin": "https://evil.example"}),
        ):
            answer = await browser.client.post("/act/queues/purge", data=form, headers=headers)
            assert answer.status_code == 403
        answer = await browser.client.post(
            "/api/queues/default/purge", content=b"{}", headers={"content-type": "text/plain"}
        )
        assert answer.status_code == 403
        (stats,) = await app.admin.queues(["default"])
        assert stats.ready == 1
        await browser.send("/act/queues/purge", **asked)
        (stats,) = await app.admin.queues(["default"])
        assert stats.ready == 0


async def test_who_guesses_tokens_waits() -> None:
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth=TOKEN)) as browser:
        await browser.get("/sign-in")
        for number in range(5):
            await browser.send("/sign-in", token=f"guess number {number}")
        await browser.send("/sign-in", token=TOKEN)
        assert browser.answer is not None
        assert browser.answer.status_code == 429
        refused = await browser.client.get("/api/queues", headers={"authorization": f"Bearer {TOKEN}"})
        assert refused.status_code == 429


async def test_pages_tell_browsers_to_trust_nothing_and_cookies_are_kept_from_scripts() -> None:
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth=TOKEN), headers={}) as browser:
        await browser.get("/sign-in")
        csrf = re.search(r'name="csrf" value="([^"]+)"', browser.html)
        assert csrf is not None
        signed_in = await browser.client.post(
            "/sign-in?to=//evil.example", data={"csrf": csrf[1], "token": TOKEN}, follow_redirects=False
        )
        assert signed_in.headers["location"] == "/"
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        page = await browser.get("/")
        assert browser.answer is not None
        policy = browser.answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert browser.answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<style|\sstyle=|<script>|\son[a-z]+=", page)
        assert (await browser.client.get("/static/../application.py")).status_code == 404


async def test_it_is_mounted_with_a_function_that_says_who_may_do_what() -> None:
    app = make_app("memory://")

    async def who(request: Request) -> Role | Visitor | None:
        users: dict[str, Role | Visitor] = {"mara": Visitor("mara", "operate"), "ole": "read"}
        return users.get(request.headers.get("x-user", ""))

    api = Starlette(routes=[Mount("/ops/tasks", app.dashboard(auth=who))])
    async with app, browsing(api) as browser:
        await browser.get("/ops/tasks/", status=403)
        browser.client.headers["x-user"] = "ole"
        assert 'href="/ops/tasks/queues"' in await browser.get("/ops/tasks/")
        assert "ole" not in browser.text
        browser.client.headers["x-user"] = "mara"
        await browser.get("/ops/tasks/send?task=shop.add")
        assert "Signed in as mara, may operate" in browser.text
        await browser.send("/ops/tasks/act/send", task="shop.add", **{"a-x": "1"})
        assert "shop.add is sent" in browser.text
        assert 'src="/ops/tasks/static/app.js' in browser.html
        static = await browser.client.get("/ops/tasks/static/style.css")
        assert static.status_code == 200
        assert "max-age" in static.headers["cache-control"]


async def test_without_auth_only_this_machine_is_let_in_and_only_by_its_own_name() -> None:
    app = make_app("memory://")
    dashboard = app.dashboard(auth=None)
    async with app:
        async with browsing(dashboard) as browser:
            await browser.get("/")
            await browser.get("/queues")
            assert (await browser.client.get("/", headers={"host": "evil.example"})).status_code == 403
            assert (await browser.client.get("/", headers={"x-forwarded-for": "1.2.3.4"})).status_code == 403
        async with browsing(dashboard, client=("10.1.2.3", 4711)) as browser:
            await browser.get("/", status=403)


async def test_names_and_passwords_are_asked_for_as_http_has_it() -> None:
    app = make_app("memory://")
    auth = Basic({"mara": "a password", "ole": "another"}, readers=frozenset({"ole"}))
    async with app, browsing(app.dashboard(auth=auth)) as browser:
        await browser.get("/", status=401)
        assert browser.answer is not None
        assert browser.answer.headers["www-authenticate"].startswith("Basic")
        for name, password, status in (("mara", "wrong", 401), ("ole", "another", 200), ("mara", "a password", 200)):
            answer = await browser.client.get("/", auth=(name, password))
            assert answer.status_code == status
        assert "Signed in as <b>mara</b>, may operate" in answer.text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "say who may come in"),
        ({"auth": "short"}, "12 characters"),
        ({"auth": {"a long enough token": "admin"}}, "'read' or 'operate'"),
        ({"auth": {}}, "names no token"),
        ({"auth": 7}, "not int"),
        ({"auth": Basic({})}, "names nobody"),
        ({"auth": "a long enough token", "secret": "short"}, "16 letters"),
    ],
)
def test_it_does_not_start_without_saying_who_may_come_in(options: Any, complaint: str) -> None:
    with pytest.raises(InvalidOption, match=complaint):
        make_app("memory://").dashboard(**options)


async def test_a_broker_that_is_away_is_said_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise OperationalError("nobody answers at <redis>")

    app = make_app("memory://")
    dashboard = app.dashboard(auth=TOKEN)
    async with app, browsing(dashboard) as browser:
        await browser.sign_in()
        for name in ("_stands", "schedules", "dead_letters"):
            monkeypatch.setattr(dashboard.desk.queries, name, away)
        monkeypatch.setattr("aiotq.control.queries.all_queues", away)
        dashboard.desk.watch.forget()
        await browser.get("/queues")
        assert "Queues can't be read now. nobody answers at <redis>" in browser.text
        await browser.get("/dead", status=503)
        assert "Something did not answer" in browser.text


async def test_no_page_waits_for_a_worker_and_what_it_says_is_there_when_it_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, said = make_app("memory://"), asyncio.Event()
    dashboard = app.dashboard(auth=TOKEN)

    async def live() -> LiveCalls:
        await said.wait()
        return LiveCalls((LiveCall("one", "shop.add", "STARTED", "default", "silent"),), is_known=True)

    monkeypatch.setattr(dashboard.desk.queries, "live", live)
    async with app, browsing(dashboard) as browser, asyncio.timeout(PATIENCE):
        await browser.sign_in()
        for path, status in (("/", 200), ("/tasks", 200), ("/workers", 200), ("/tasks/one", 404)):
            await browser.get(path, status)
        for path in ("/tasks", "/workers"):
            await browser.get(path)
            assert "The workers are being asked what they run" in browser.text

        said.set()
        await wait_until(lambda: says(browser, "/workers", "1 task runs now"), "it is there")
        await wait_until(lambda: says(browser, "/tasks", "shop.add"), "and among the tasks")


async def test_pages_are_small_and_quick_with_ten_thousand_tasks() -> None:
    app = make_app("memory://")
    async with app, browsing(app.dashboard(auth=TOKEN)) as browser:
        await browser.sign_in()
        for number in range(40):
            await app.send_many(
                app.signature("shop.add", [number, "x" * 300], queue=f"queue-{number}") for _ in range(250)
            )
        for path in ("/", "/queues", "/queues?from=25", "/tasks", "/workers", "/schedules", "/dead"):
            await browser.get(path)  # asserts its size
        # A look is a second old at most.
        await wait_until(lambda: says(browser, "/queues?from=25", "26 to 4"), "the second page of queues is there")
