"""An app whose tasks child processes can import, and what they do to their workflows."""

from __future__ import annotations

from typing import Any

from aiotq import AioTQ, Task, group

app = AioTQ("canvas_process", broker="memory://")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def collect(values: list[Any]) -> list[Any]:
    return values


@app.task(run="process", bind=True)
def grow(self: Task[..., Any], *numbers: int) -> int:
    """Add members to the chord, one for each of `numbers` but the first, and return that."""
    for number in numbers[1:]:
        self.sync.add_to_chord(add.s(number, number))
    return numbers[0]


@app.task(run="process", bind=True)
async def become(self: Task[..., Any], x: int, y: int) -> Any:
    raise self.replace(group(add.s(x, y), add.s(y, x)))


@app.task(run="process")
def halve(x: int) -> int:
    return x // 2


@app.task(run="process")
def fail(x: int) -> int:
    raise ValueError("no luck", x)
