"""The page about long tasks runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "long-tasks.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "proj"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/guides/long-tasks.md", "exec", dont_inherit=True), names)
    names["app"].conf.broker_url = "memory://"

    async with names["app"] as app, app.worker():
        assert await (await names["mail_all"].delay()).get(timeout=10) == 5
        assert await (await names["train"].delay(3)).get(timeout=10) == 0.125
        assert await (await names["count_in_thread"].delay(3)).get(timeout=10) == 3
    assert (await names["train"].apply((1,))).seen() == 0.5
