"""The page about flows runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from aiotq.testing import TestWorker

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "flows.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/guides/flows.md", "exec", dont_inherit=True), names)
    app = names["app"]

    await names["test_an_order_is_refunded_if_it_is_not_shipped"]()
    async with TestWorker(app) as t:
        flow_id = await names["sell"](7)
        await t.advance(days=2)
        await names["parcel_left"](7, "p9")
        await t.idle()
        assert await app.AsyncResult(flow_id) == "shipped"
        t.assert_ran(names["mail"], args=(7, "parcel p9"))
