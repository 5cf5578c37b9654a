"""Signatures and handles of results as values: arguments, return values, `meta` of a state, in every content type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..canvas.serialized import as_canvas, as_form
from ..canvas.signature import Canvas, Sender
from ..results.handle import AsyncResult
from ..results.reader import Readers
from ..results.sets import GroupResult, result_of_shape, shape_of_result
from ..wire.known_types import ValueForm


def forms_of(sender: Sender, readers: Readers) -> list[ValueForm]:
    """Return the forms of these values; what arrives belongs to this app.

    They are those of Celery's own: the dict of a signature, and for Celery's workers (`celery_compat`) that alone.
    """

    def handle(given: Any) -> AsyncResult[Any] | GroupResult[Any]:
        return result_of_shape(_mapping(given), readers)

    def canvas(given: Any) -> Canvas[Any]:
        return as_canvas(_mapping(given), sender)

    return [
        ValueForm("signature", Canvas, as_form, canvas, is_shared=True),
        ValueForm("result", AsyncResult, shape_of_result, handle),
        ValueForm("result", GroupResult, shape_of_result, handle),
    ]


def _mapping(given: object) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise TypeError(f"its form is a mapping, not a {type(given).__name__}")
    return cast("dict[str, Any]", given)
