"""`pydantic=True`: a mapping for a parameter that is annotated with a pydantic model arrives as that model."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, cast

from ..wire.known_types import is_model
from .running import gives_coroutine


def with_models(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as a function that makes models of the mappings it is given; pydantic's errors are the call's."""
    signature = inspect.signature(fn)

    @functools.cache
    def models() -> Mapping[str, Any]:  # read when it is first called: annotations may name what is declared later
        hints = typing.get_type_hints(fn)
        found = {name: _model_in(hints[name]) for name in signature.parameters if name in hints}
        return {name: model for name, model in found.items() if model is not None}

    def validated(args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = signature.bind(*args, **kwargs)
        for name, model in models().items():
            if isinstance(given := bound.arguments.get(name), Mapping):
                bound.arguments[name] = model.model_validate(given)
        return bound

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        return await fn(*bound.args, **bound.kwargs)

    def called(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        return fn(*bound.args, **bound.kwargs)

    wrapped: Any = functools.wraps(fn)(awaited if gives_coroutine(fn) else called)
    wrapped.__signature__ = signature  # what is checked at the call
    return cast("Callable[..., Any]", wrapped)


def _model_in(annotation: Any) -> Any:
    """Return the model that an annotation is, or is one of."""
    several = (
        typing.get_args(annotation) if typing.get_origin(annotation) in {Union, types.UnionType} else (annotation,)
    )
    return next((each for each in several if isinstance(each, type) and is_model(each)), None)
