"""The page about periodic tasks runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "periodic.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "proj"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/guides/periodic.md", "exec", dont_inherit=True), names)

    await names["test_wake"]()
    async with names["app"] as app, app.beat():
        await names["manage"]()
        listed = {task.name for task in await app.schedules.list()}

    assert listed == {"proj.wake", "tidy often", "proj.tidy(30)", "wake ann", "wake bob"}
    assert len(blocks) >= 4
