"""The page about batches runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "batches.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "proj"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/guides/batches.md", "exec", dont_inherit=True), names)
    names["app"].conf.broker_url = "memory://"

    async with names["app"] as app, app.worker():
        assert await names["add_three"]() == [3, 5, 5]
        rows = [await names["insert"].delay(row) for row in ({"id": 1}, {}, {"id": 2})]
        halves = [await names["halve"].delay(number) for number in (2, 3, 8)]
        inserted = [await each.get(timeout=10, propagate=False) for each in rows]
        halved = [await each.get(timeout=10, propagate=False) for each in halves]

    assert set(names["index"]) == {"one", "three", "seven"}
    assert [type(each) for each in inserted] == [type(None), ValueError, type(None)]
    assert [str(each) for each in halved] == ["1", "3 is odd", "4"]
    assert await names["add_to_index"]("direct") == 6
