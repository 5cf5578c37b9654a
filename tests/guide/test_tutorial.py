"""The tutorial, followed from an empty folder: its programs, its commands, and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import RedisServer, free_port

from .pages import DOCS, Reader


@pytest.mark.parametrize("page", ["first-steps.md", "next-steps.md", "workflows.md"])
async def test_what_the_tutorial_says_happens(page: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)

    await reader.follow(f"tutorial/{page}")

    assert len(reader.done) > 3
    for drawing in tmp_path.glob("*.svg"):
        assert drawing.read_text() == (DOCS / "images" / drawing.name).read_text(), f"docs/images/{drawing.name} is old"


async def test_a_service_goes_to_production(tmp_path: Path) -> None:
    with RedisServer({"appendonly": "yes"}) as server:
        here = {"redis://localhost:6379/0": server.url, "127.0.0.1:9100": f"127.0.0.1:{free_port()}"}
        reader = Reader(tmp_path, here)

        await reader.follow("tutorial/production.md")

    assert len(reader.done) > 10


async def test_a_first_service_of_fastapi_answers(tmp_path: Path) -> None:
    port = str(free_port())
    reader = Reader(tmp_path, {"127.0.0.1:8000": f"127.0.0.1:{port}", "--port 8000": f"--port {port}"})

    await reader.follow("guides/frameworks/fastapi.md")

    assert len(reader.done) == 9
