"""Every block of Python on a page is run by a test, or says why it is a fragment; all of them are Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: Pages whose blocks run: by the test of each in this directory.
RUN: Final = {
    "README.md": "test_readme.py",
    "docs/guides/canvas.md": "test_canvas_page.py",
    "docs/guides/frameworks/fastapi.md": "test_tutorial.py",
    "docs/guides/periodic.md": "test_periodic_page.py",
    "docs/guides/testing.md": "test_5_testing.py",
    "docs/guides/stores.md": "test_stores_page.py",
    "docs/reference/schedules.md": "test_schedules_page.py",
    **dict.fromkeys(
        [f"docs/tutorial/{name}.md" for name in ("first-steps", "next-steps", "workflows")], "test_tutorial.py"
    ),
    "docs/tutorial/production.md": "test_tutorial.py",
    **dict.fromkeys(
        [f"docs/guides/from-{peer}.md" for peer in ("celery", "rq", "arq", "dramatiq", "taskiq")],
        "test_moving_pages.py",
    ),
}
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "```python" in path.read_text()
)
_ALL: Final = re.compile(r"<!-- fragments: .{8,} -->")
_NEXT: Final = re.compile(r"<!-- fragment: .{4,} -->\s*\Z")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield the text before each block, and the block."""
    text = (ROOT / page).read_text()
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text[: found.start()], found[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_or_says_why_not(page: str) -> None:
    for before, block in blocks(page):
        compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        is_fragment = _ALL.search(before) or _NEXT.search(before)

        assert page in RUN or is_fragment, f"{page} is run by no test, and this has no <!-- fragment: why -->:\n{block}"


def test_the_tests_of_pages_are_there() -> None:
    assert {file for file in RUN.values() if not (Path(__file__).parent / file).exists()} == set()
    assert set(RUN) <= set(PAGES)
