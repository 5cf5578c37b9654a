"""The page about schedules runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[2] / "docs" / "reference" / "schedules.md").read_text()


def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

    for block in blocks:
        exec(compile(block, "docs/reference/schedules.md", "exec"), names)

    assert len(blocks) > 5
