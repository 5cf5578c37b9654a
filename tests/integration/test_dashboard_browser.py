"""The dashboard in a real browser: what a script of others could do, and what lives without a reload."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from playwright.async_api import Browser as Chromium
from playwright.async_api import Page, async_playwright

from aiotq import AioTQ
from aiotq.web.listening import listen
from aiotq.web.serving import serving_here

from ..waiting import wait_until

TOKEN: Final = "a token that operates"
#: What would run, or break out of where it stands, if it were markup anywhere.
HOSTILE: Final = (
    "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\"><svg onload=window.hurt=1>"
    "' onmouseover='window.hurt = 1' javascript:window.hurt=1 {{7*7}} </textarea></title>"
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("chromium is not here: make servers installs it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


def make_app() -> AioTQ:
    app = AioTQ("shop <b>", broker="memory://", result_index="all", result_extended=True)

    @app.task(name="shop.<i>fail</i>")
    async def fail(text: Any, **more: Any) -> None:
        raise ValueError(text)

    @app.task(name="shop.add")
    async def add(x: int, y: int = 2) -> int:
        return x + y

    return app


@asynccontextmanager
async def served(app: AioTQ, port: int = 0) -> AsyncIterator[str]:
    listener, dashboard = listen("127.0.0.1", port), app.dashboard(auth=TOKEN)
    async with serving_here(dashboard, listener, dashboard.send_away):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def signed_in(page: Page, address: str) -> None:
    await page.goto(f"{address}/sign-in")
    await page.fill("input[name=token]", TOKEN)
    await page.click("button.primary")


async def test_pages_live_in_a_browser_and_nothing_that_came_from_a_task_is_markup() -> None:
    """One browser for all: starting it is the most of it."""
    async with chromium() as browser:
        await nothing_is_markup_and_pages_fit(browser)
        await a_lost_connection_is_said_and_comes_back(browser)
        await every_act_is_a_form(browser)


async def nothing_is_markup_and_pages_fit(browser: Chromium) -> None:
    app = make_app()
    async with app, served(app) as address:
        page = await browser.new_page(viewport={"width": 360, "height": 800})
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await signed_in(page, address)
        async with app.worker():
            failed = await app.send_task("shop.<i>fail</i>", [HOSTILE], {HOSTILE: HOSTILE})
            await wait_until(failed.ready, "the call has ended")
            unknown = await app.send_task(f"nobody {HOSTILE[:100]}", [HOSTILE], queue=f"queue {HOSTILE[:60]}")
            await app.schedules.add(3600, app.signature("shop.add", [1]), name=f"schedule {HOSTILE[:60]}")
            for path in (
                *("", "tasks", f"tasks?find={HOSTILE[:40]}", "queues", "workers?ask=stacks", "schedules", "dead"),
                *(f"tasks/{failed.id}", f"workflows/{failed.id}", "send", "send?task=shop.<i>fail</i>", "workflows"),
                f"tasks/{unknown.id}",
            ):
                await page.goto(f"{address}/{path}")
                assert await page.evaluate("window.hurt") is None, path
                assert await page.evaluate("document.documentElement.scrollWidth") <= 360, f"{path} is too wide"
                if path == f"tasks/{failed.id}":
                    assert "<script>window.hurt" in await page.inner_text("main")
            assert [each for each in complaints if "404" not in each] == []
            await sees_what_is_new_without_a_reload(page, app, address)


async def sees_what_is_new_without_a_reload(page: Page, app: AioTQ, address: str) -> None:
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.goto(f"{address}/tasks")
    await page.get_by_text("Live", exact=True).wait_for()
    rows = await page.locator("tbody tr").count()
    result = await app.send_task("shop.add", [1])
    await wait_until(result.ready, "the call has ended")
    newer = page.locator("#fresh")
    await newer.wait_for()
    assert await newer.inner_text() == "1 newer task. Show it"
    assert await page.locator("tbody tr").count() == rows  # rows don't jump
    await newer.click()
    await page.get_by_text("shop.add").first.wait_for()
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    await page.get_by_role("button", name="Delete…").click()
    await page.locator("#ask:popover-open").wait_for()  # over the page, which stays
    await page.fill("#ask input[name=typed]", "delete")
    await page.get_by_role("link", name="Keep it").click()
    assert await page.locator("#ask:popover-open").count() == 0
    await page.get_by_role("button", name="Run again").click()
    assert "sent to run again" in await page.inner_text(".toast")


async def a_lost_connection_is_said_and_comes_back(browser: Chromium) -> None:
    app = make_app()
    async with app:
        page = await browser.new_page()
        async with served(app) as address:
            await signed_in(page, address)
            await page.goto(f"{address}/queues")
            await page.get_by_text("Live", exact=True).wait_for()
        await page.get_by_text("No connection").wait_for()
        await app.send_task("shop.add", [1], queue="while it was away")
        port = re.search(r":(\d+)$", address)
        assert port is not None
        async with served(app, int(port[1])):
            await page.get_by_text("while it was away").first.wait_for(timeout=10_000)
            await page.get_by_text("Live", exact=True).wait_for()


async def every_act_is_a_form(browser: Chromium) -> None:
    """Without JavaScript."""
    app = make_app()
    async with app, served(app) as address:
        context = await browser.new_context(java_script_enabled=False, color_scheme="dark")
        page = await context.new_page()
        await signed_in(page, address)
        await app.send_task("shop.add", [1])
        await page.goto(f"{address}/queues")
        await page.get_by_role("button", name="Pause").click()
        assert "default is paused" in await page.inner_text(".toast")
        await page.get_by_role("button", name="Undo").click()
        assert "default is resumed" in await page.inner_text(".toast")
        await page.get_by_role("button", name="Purge", exact=True).click()
        assert "1 ready and 0 delayed tasks will be deleted" in await page.inner_text("#ask")
        await page.fill("#ask input[name=typed]", "default")
        await page.get_by_role("button", name="Purge 1 task").click()
        assert "1 task deleted" in await page.inner_text(".toast")
        await page.get_by_role("button", name="Light").click()
        assert await page.get_attribute("html", "data-theme") == "light"
        await page.get_by_role("button", name="Sign out").click()
        assert page.url == f"{address}/sign-in"
        await page.goto(f"{address}/queues")
        assert "/sign-in" in page.url
