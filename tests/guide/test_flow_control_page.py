"""The page about flow control runs from top to bottom."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any, Final

from aiotq import AioTQ

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "flow-control.md").read_text()


async def test_the_page_runs_from_top_to_bottom(app: AioTQ) -> None:
    names: dict[str, Any] = {"__name__": "proj", "app": app}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    async with app, app.worker():
        for block in blocks:
            code = compile(
                block, "docs/guides/flow-control.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
            )
            waiting = eval(code, names)
            if inspect.isawaitable(waiting):
                await waiting

    assert len(blocks) >= 4
