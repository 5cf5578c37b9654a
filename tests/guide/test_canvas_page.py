"""The page about workflows runs from top to bottom, and its drawings are those that the command line makes."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from aiotq import AioTQ
from tests.forked import run_aiotq
from tests.waiting import wait_until

from ..integration.shells import environment

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "guides" / "canvas.md").read_text()
BLOCKS: Final = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS: Final = re.findall(r'^\$ aiotq graph -A shop "(.*)" -o (images/\w+\.svg)$', PAGE, re.MULTILINE)


async def run(block: str, names: dict[str, Any]) -> None:
    code = compile(block, "docs/guides/canvas.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running: object = eval(code, names)
    if inspect.iscoroutine(running):
        await running


async def test_the_page_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    await run(BLOCKS[0], vars(module))
    app: AioTQ = module.app
    async with app, app.worker():
        for block in BLOCKS[1:]:
            await run(block, vars(module))

        told = {2, ("shop.fail", "out of stock")}
        await wait_until(lambda: set(module.told) == told, "the callbacks have run")
    assert "4 of 4; 0 failed" in capsys.readouterr().out
    assert module.drawing == (DOCS / "images" / "failed.svg").read_text()


@pytest.mark.parametrize(("expression", "image"), COMMANDS)
def test_the_drawings_are_those_of_the_command(expression: str, image: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(BLOCKS[0])

    words = ["graph", "-A", "shop", expression, "-o", str(tmp_path / "drawn.svg")]
    done = run_aiotq(words, tmp_path, environment(), timeout=60)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn.svg").read_text() == (DOCS / image).read_text(), (
        f"docs/{image} is not what is drawn today"
    )


def test_every_drawing_on_the_page_is_made_by_a_test() -> None:
    shown = set(re.findall(r"!\[.*\]\(\.\./(images/\w+\.svg)\)", PAGE))

    assert shown == {image for _, image in COMMANDS} | {"images/failed.svg"}
    of_the_tutorial = {"images/words.svg"}
    assert {f"images/{file.name}" for file in (DOCS / "images").glob("*.svg")} == shown | of_the_tutorial
