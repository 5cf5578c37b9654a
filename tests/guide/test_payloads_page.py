"""The page about secret payloads runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from aiotq.core.inside import core_of

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "payloads.md").read_text()


async def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "proj"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/guides/payloads.md", "exec", dont_inherit=True), names)
    names["app"].conf.broker_url = "memory://"

    async with names["app"] as app, app.worker():
        result = await names["diagnose"].delay("ann", "well")
        assert await result.get(timeout=10) == "ann: well"
        assert [word async for word in (await names["letter"].delay("dear ann")).stream()] == ["dear", "ann"]
        (record,) = await (await core_of(app).connection()).records.get([result.id])

    assert record is not None
    assert record.content_type.endswith("application/x-aes-gcm")
