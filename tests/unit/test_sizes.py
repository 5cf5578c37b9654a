"""What is read in one sitting: a function has at most 60 lines, a file 500, and the composition root 300."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "src" / "aiotq"
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_no_file_and_no_function_is_too_long() -> None:
    found: list[str] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text, name = file.read_text(), file.relative_to(PACKAGE).as_posix()
        lines = len(text.splitlines())
        if lines > (300 if name == "app.py" else 500):
            found.append(f"{name}: {lines} lines")
        found += [
            f"{name}:{node.lineno}: {node.name} has {length} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, FUNCTIONS) and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
        ]

    assert found == []
