"""The page about streams runs from top to bottom, and its last program answers a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "streams.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "proj"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/guides/streams.md", "exec", dont_inherit=True), names)
    names["app"].conf.broker_url = "memory://"

    async with names["app"] as app, app.worker():
        assert await names["ask"]() == ["You", "asked:", "why", "is", "the", "sky", "blue?"]
        assert await names["count"]() == ([1, 2, 3], 3)
        assert await names["read_in_two_parts"]() == ["You", "asked:", "is", "it", "far?"]
        assert await names["show"]("now?") == "You asked: now?"
        for task, chunks in (("rows", [0, 1, 2]), ("lines", [0, 1, 2])):
            assert [chunk async for chunk in (await names[task].delay(3)).stream()] == chunks
        assert len([row async for row in (await names["export"].delay("t")).stream()]) == 250
        await sent_to_a_browser(names)


async def sent_to_a_browser(names: dict[str, Any]) -> None:
    result = await names["answer"].delay("ok?")
    web = Starlette(routes=[Route("/{id}", names["stream_answer"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://here") as browser:
        whole = await browser.get(f"/{result.id}")
        events = whole.text.strip().split("\n\n")
        place = events[1].partition("id: ")[2].partition("\n")[0]
        rest = await browser.get(f"/{result.id}", headers={"Last-Event-ID": place})
        failed = await browser.get(f"/{(await names['answer'].options(expires=-1).delay('late')).id}")

    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [each.partition("data: ")[2] for each in events] == ['"You"', '"asked:"', '"ok?"', "null"]
    assert events[-1] == "event: end\ndata: null"
    assert rest.text.strip().split("\n\n") == events[2:]
    assert failed.text.startswith('event: error\ndata: {"type":"TaskRevokedError"')
