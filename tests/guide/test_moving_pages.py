"""The guides for those who come from other task queues: their examples run, and print what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import Reader


@pytest.mark.parametrize("page", ["from-celery.md", "from-rq.md", "from-arq.md", "from-dramatiq.md", "from-taskiq.md"])
async def test_the_example_prints_what_it_says(page: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)

    await reader.follow(f"guides/{page}")

    assert len(reader.done) == (5 if page == "from-celery.md" else 1)
