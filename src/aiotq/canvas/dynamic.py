"""What a running task does to its own workflow."""

from __future__ import annotations

from typing import Any

from ..exceptions import TaskPredicate
from .serialized import as_canvas, as_form
from .signature import Canvas


class Replace(TaskPredicate):
    """The task is to go on as `canvas`, in its place; made by `self.replace(...)`."""

    def __init__(self, canvas: Canvas[Any]) -> None:
        self.canvas = canvas
        super().__init__(f"replaced by {canvas!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_form, (as_form(self.canvas),)


def _of_form(form: dict[str, Any]) -> Replace:
    return Replace(as_canvas(form))
