"""The guides for those who come from other task queues: their examples run, and print what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import Reader


@pytest.mark.parametrize("peer", ["celery", "rq", "arq", "dramatiq", "taskiq"])
async def test_the_example_prints_what_it_says(peer: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)

    await reader.follow(f"guides/from-{peer}.md")

    assert len(reader.done) == (5 if peer == "celery" else 1)
