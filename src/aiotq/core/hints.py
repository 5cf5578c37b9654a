"""The type hints of functions and classes, as far as they can be evaluated."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def hints_of(owner: Any) -> dict[str, Any]:
    """Return the type hints of a function or class by name, with what `Annotated` adds.

    Those that can't be evaluated are left out: they may name what only type checkers import.
    """
    while isinstance(owner, functools.partial):
        owner = typing.cast("functools.partial[Any]", owner).func
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except Exception:  # whatever evaluating an annotation raises
        pass
    found: dict[str, Any] = {}
    for each in reversed(owner.__mro__) if isinstance(owner, type) else (owner,):
        with suppress(Exception):  # in newer Pythons annotations are evaluated when they are asked for
            found.update(_one_by_one(inspect.get_annotations(each), _names_of(each)))
    return found


def _one_by_one(annotations: Mapping[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in annotations.items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with suppress(Exception):  # as above
            found.update(typing.get_type_hints(alone, space, include_extras=True))
    return found


def _names_of(owner: Any) -> dict[str, Any]:
    """Return the names that the annotations of `owner` are written with."""
    origin = inspect.unwrap(owner)
    return getattr(origin, "__globals__", None) or vars(sys.modules[origin.__module__])
