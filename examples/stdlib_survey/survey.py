"""The app of the survey and its three tasks, one of each kind: on the loop, in a process, in a thread.

A later step of a module has a higher priority than an earlier one, so that a worker finishes what it began
before it begins something new.
"""

from __future__ import annotations

import ast
import importlib.util
from typing import TypedDict

from anyio import Path

from aiotq import AioTQ

# Each finished task can be found in the dashboard, with what it was called with.
app = AioTQ("survey", result_index="all")


class Counts(TypedDict):
    """What is in one module. Tasks hand each other plain values, which JSON can carry."""

    lines: int
    classes: int
    functions: int
    lengths: list[int]
    "Functions of one line, of two, of up to 4, 8, 16, 32, 64, and longer ones."


@app.task(priority=4)
async def read(path: str) -> str:
    """Return the text of a source file: a coroutine, so many wait for the disk at once."""
    return importlib.util.decode_source(await Path(path).read_bytes())


@app.task(run="process", priority=5)
def parse(source: str) -> Counts:
    """Count what is in a source text: this keeps a core busy, so it runs in a process."""
    counts = Counts(lines=len(source.splitlines()), classes=0, functions=0, lengths=[0] * 8)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                last = node.end_lineno or node.lineno
                counts["functions"] += 1
                counts["lengths"][min(7, (last - node.lineno).bit_length())] += 1
            case ast.ClassDef():
                counts["classes"] += 1
            case _:
                pass
    return counts


@app.task(priority=6)
def render(counts: Counts) -> str:
    """Draw how long a module's functions are, one bar for each length: a plain function, so it runs in a thread."""
    highest = max(counts["lengths"]) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // highest)] for count in counts["lengths"])
