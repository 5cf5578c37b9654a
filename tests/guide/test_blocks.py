"""Every block of Python on a page is run by a test, or says why it is a fragment; all of them are Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: The tests of pages beside this one, in which the names of the pages stand that they run.
TESTS: Final = "".join(file.read_text() for file in Path(__file__).parent.glob("*.py") if file != Path(__file__))
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

        assert Path(page).name in TESTS or is_fragment, (
            f"no test in tests/guide names {page}, and this has no <!-- fragment: why --> above it:\n{block}"
        )
